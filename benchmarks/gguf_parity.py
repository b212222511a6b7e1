"""A run in llama.cpp: the parity gate of GGUF files, and whether they answer the test questions with the same text.

    python benchmarks/gguf_parity.py RUN [--dtypes f16 q8_0] [--adapter] [--rows 1000]
    python benchmarks/gguf_parity.py RUN --dtypes --corrupt 3

Each file is exported through the gate on the run's test rows (all of them, up to --rows). "The run's own weights in
fp32": transformers with the adapter unmerged, what the gate compares with. "As it was evaluated": the answers that the
run stored when its training ended, in the dtype it was trained in; rounding in bf16 may turn a word. Answers are
greedy, of at most eval.max_new_tokens tokens. ``--corrupt N``: N times a file is made after one LoRA matrix, drawn at
random, got other values of the same size; the gate has to refuse each. Needs llama-cpp-python. Writes
docs/benchmarks/gguf.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunery.errors import GateError
from tunery.export import consume, kinds, probes
from tunery.export.kind import Subject
from tunery.export.publish import export
from tunery.models import machine
from tunery.run.run import Run

TARGET = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "gguf.json"


def stored_answers(run: Run) -> dict[str, str]:
    """Question → the answer that the run gave when it was evaluated on its test rows."""
    file = run.dir.evaluation("test") / "predictions.jsonl"
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {row["input"]: row["prediction"] for row in rows}


def as_evaluated(run: Run, said: list[list[int]], asked: probes.Probes, subject: Subject) -> float:
    """Share of the test questions that llama.cpp answered with the text that the run stored."""
    known = stored_answers(run)
    pairs = [
        (known[example.input_text], subject.tokenizer.decode(ids, skip_special_tokens=True).strip())
        for example, ids in zip(asked.asked, said, strict=True)
        if example.input_text in known
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


def measure(run: Run, kind: str, dtype: str, rows: int, folder: Path) -> tuple[dict[str, Any], list[list[int]]]:
    """→ what the gate found, and what llama.cpp answered there."""
    said: list[list[list[int]]] = []
    inner = consume.run

    def heard(job: Any, place: Path) -> dict[str, Any]:
        found = inner(job, place)
        said.append(found["answers"])
        return found

    begun = time.monotonic()
    consume.run = heard
    try:
        done = export(run, kind, dtype=dtype, output=folder / f"{kind}-{dtype}", rows=rows)
    finally:
        consume.run = inner
    found = done["parity"]
    kept = ("rows", "positions", "token_ids_equal", "top1", "kl_mean", "kl_max", "same_answers", "metrics", "bounds")
    result: dict[str, Any] = {"versions": found["consumer"]["versions"], **{key: found[key] for key in kept}}
    return result | {"bytes": done["bytes"], "seconds": round(time.monotonic() - begun, 1)}, said[0]


def refused(run: Run, number: int, rows: int, folder: Path) -> dict[str, Any]:
    """What the gate says of a file that was made from a copy of the run with one spoilt matrix, read after the check
    of its hash: only the answers can give it away.
    """
    copy = Run(shutil.copytree(run.path, folder / f"{run.path.name}-{number}"))
    kind = type(kinds.get("gguf"))
    whole, spoilt = kind.build, []

    def build(self: Any, subject: Subject, *rest: Any) -> None:
        spoilt.append(spoil(copy.dir.model / "adapter_model.safetensors", number))
        whole(self, subject, *rest)

    kind.build = build  # type: ignore[method-assign]
    try:
        export(copy, "gguf", dtype="f16", output=folder / f"spoilt-{number}", rows=rows)
    except GateError as error:
        return {"matrix": spoilt[0], "refused": True, "said": error.problem}
    finally:
        kind.build = whole  # type: ignore[method-assign]
    return {"matrix": spoilt[0], "refused": False}


def spoil(file: Path, number: int) -> str:
    """Give one matrix random values of its own standard deviation → its name."""
    stored = load_file(file)
    random = torch.Generator().manual_seed(number)
    names = sorted(stored)
    name = names[int(torch.randint(len(names), (1,), generator=random))]
    stored[name] = (torch.randn(stored[name].shape, generator=random) * stored[name].float().std()).to(
        stored[name].dtype
    )
    save_file(stored, file, metadata={"format": "pt"})
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dtypes", nargs="*", default=["f16", "q8_0"])
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter as a GGUF file as well")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--corrupt", type=int, default=0, metavar="N", help="files made with one spoilt matrix")
    given = parser.parse_args()
    machine.prepare()
    run = Run(given.run)
    subject = Subject(run)
    asked = probes.collect(subject, given.rows)
    results = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.is_file() else {}
    if results.get("run") != run.path.name:
        results = {"run": run.path.name, "base": run.manifest["base"]["name"], "trained_in": subject.dtype}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, dtype in [*(("gguf", dtype) for dtype in given.dtypes), *([("gguf_lora", "f16")] * given.adapter)]:
            found, said = measure(run, kind, dtype, given.rows, Path(scratch))
            found["same_answers_as_evaluated"] = as_evaluated(run, said, asked, subject)
            results.setdefault("exports", {})[f"{kind} {dtype}"] = found
            print(json.dumps({f"{kind} {dtype}": found}, indent=2), flush=True)
            TARGET.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if given.corrupt:
            results["corrupted"] = [refused(run, number, given.rows, Path(scratch)) for number in range(given.corrupt)]
            print(json.dumps(results["corrupted"], indent=2), flush=True)
            TARGET.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
