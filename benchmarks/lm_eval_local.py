"""lm-evaluation-harness against ``tunery serve``, from beginning to end, on a small task of its own.

    pip install 'lm-eval[api]'
    python benchmarks/lm_eval_local.py RUN [--rows 20] [--data examples/support_test.jsonl]

RUN is an instruct run, of the shop's support by default data. The task (questions, and key facts that an answer must
contain) is written as YAML over a local file; nothing is fetched. Prints lm-eval's table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from serve import free_port, process

REPOSITORY = Path(__file__).resolve().parent.parent
TASK = """task: shop_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{fact}}}}"
generation_kwargs:
  max_gen_toks: {tokens}
  until: ["\\n\\n"]
process_results: !function facts.contains
metric_list:
  - metric: contains
    aggregation: mean
    higher_is_better: true
"""
SCORE = '''"""Whether the answer contains the fact."""


def contains(doc, results):
    return {"contains": float(doc["fact"].lower() in results[0].lower())}
'''


def write_task(folder: Path, data: Path, rows: int, tokens: int) -> None:
    found = []
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        fact = row.get("contains") or row["answer"]
        found.append({"question": row["question"], "fact": fact[0] if isinstance(fact, list) else fact})
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found[:rows]), encoding="utf-8")
    (folder / "shop_local.yaml").write_text(TASK.format(file=file, tokens=tokens), encoding="utf-8")
    (folder / "facts.py").write_text(SCORE, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "examples" / "support_test.jsonl")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve = [sys.executable, "-m", "tunery", "serve", f"shop={given.run}", "--port", str(port)]
    with tempfile.TemporaryDirectory() as scratch, process(serve, f"{url}/ready"):
        folder = Path(scratch)
        write_task(folder, given.data, given.rows, given.tokens)
        model = f"model=shop,base_url={url}/v1/chat/completions,num_concurrent=8,tokenizer_backend=None"
        command = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", model]
        command += ["--tasks", "shop_local", "--include_path", str(folder), "--apply_chat_template"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "OPENAI_API_KEY": "none"}
        return subprocess.run(command, env={**os.environ, **offline}).returncode


if __name__ == "__main__":
    sys.exit(main())
