"""Exports load in the programs they are for, give the run's answers, and are not published if they do not."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import small
from exports import CONSUMERS, in_process
from small import one_thread  # noqa: F401
from tunery.errors import ConfigError, GateError
from tunery.export import consumers, kinds, parity, tokens
from tunery.protocols import Example, Message
from tunery.run.run import Run
from verbs import call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch)


def tuned(folder: Path, base: Path, task: str = "instruct", method: str = "lora", **settings: Any) -> Run:
    """A short training that moves the weights far."""
    data = small.write(folder / f"{task}.jsonl", small.ROWS[task](24))
    values: dict[str, Any] = {"train__max_steps": 3, "train__lr": 0.03, "train__batch_size": 8, "eval__base": False}
    values |= {"eval__baselines": False}
    return small.train(folder / "runs", base, data, task=task, method=method, **(values | settings))


def corrupt(file: Path) -> None:
    """Other values in one A matrix."""
    stored = load_file(file)
    name = next(name for name in sorted(stored) if "lora_A" in name)
    stored[name] = torch.randn(stored[name].shape, generator=torch.Generator().manual_seed(0)) * stored[name].std() * 3
    save_file(stored, file, metadata={"format": "pt"})


def nothing_there(run: Run) -> bool:
    return not any((run.path / "export").glob("[!.]*"))


def test_consumers_do_not_know_tunery() -> None:
    for file in CONSUMERS.glob("*.py"):
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names = [a.name for node in tree if isinstance(node, ast.Import) for a in node.names]
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names += [str(node.module) for node in tree if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.startswith("tunery")], file


def test_a_merged_model_in_a_process_of_its_own(tiny_llama: Path, tmp_path: Path) -> None:
    run = tuned(tmp_path, small.lively(tiny_llama, tmp_path / "base"))
    found = run.export("merged", rows=6)
    folder = run.path / "export" / "merged"
    assert found["path"] == str(folder) and found["parity"]["passed"] and found["parity"]["rows"] in (6, 7)
    assert found["parity"]["kl_max"] < 1e-6 and found["parity"]["same_answers"] == 1
    assert found["parity"]["metrics"]["run"] == pytest.approx(found["parity"]["metrics"]["export"], rel=1e-4)
    assert json.loads((folder / "parity.json").read_text()) == found["parity"]
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())  # type: ignore[misc]
    assert sums == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums}
    assert {path.name for path in folder.iterdir()} == {*sums, "SHA256SUMS"}
    assert "KL divergence, mean" in (folder / "README.md").read_text()
    assert set(load_file(folder / "model.safetensors")) == set(load_file(tmp_path / "base" / "model.safetensors"))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["merged"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # the weights too are for all to read


def test_a_dead_consumer_is_one_line(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tuned(tmp_path, tiny_llama)
    (tmp_path / "consumers").mkdir()
    for name, line in (("dies", "os.kill(os.getpid(), signal.SIGILL)"), ("fails", "raise ValueError('no such layer')")):
        (tmp_path / "consumers" / f"{name}.py").write_text(f"import os, signal\n\ndef load(job):\n    {line}\n")
    (tmp_path / "consumers" / "_run.py").write_bytes((CONSUMERS / "_run.py").read_bytes())
    monkeypatch.setattr(consumers, "__file__", str(tmp_path / "consumers" / "__init__.py"))
    for name, said in (("dies", "SIGILL"), ("fails", "ValueError: no such layer")):
        monkeypatch.setattr(type(kinds.get("adapter")), "consumer", name)
        answer = call(capsys, "export", run.path, "--to", "adapter", "--rows", "2", "--json")
        assert answer.code == 4 and said in answer.error["problem"] and "Traceback" not in answer.err
        assert nothing_there(run)


@pytest.mark.usefixtures("here")
def test_a_corrupted_matrix_fails_the_gate(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tuned(tmp_path, small.lively(tiny_llama, tmp_path / "base"), method="lora")
    for name in ("adapter", "merged"):
        kind = type(kinds.get(name))
        whole = kind.build

        def spoilt(self: Any, subject: Any, *rest: Any, whole: Any = whole) -> None:
            corrupt(run.dir.model / "adapter_model.safetensors")
            whole(self, subject, *rest)

        before = (run.dir.model / "adapter_model.safetensors").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(kind, "build", spoilt)
            answer = call(capsys, "export", run.path, "--to", name, "--rows", "4", "--json")
        assert answer.code == 4 and "is not the run's model" in answer.error["problem"], name
        assert "mean KL" in answer.error["problem"] and nothing_there(run)
        (run.dir.model / "adapter_model.safetensors").write_bytes(before)


@pytest.mark.usefixtures("here")
def test_an_older_export_is_replaced_only_by_one_that_passes(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuned(tmp_path, tiny_llama)
    folder = Path(run.export("adapter", rows=2)["path"])
    (folder / "mark").touch()
    with pytest.raises(ConfigError, match="there already"):
        run.export("adapter", rows=2)
    with monkeypatch.context() as patch:
        patch.setattr(parity, "failures", lambda *_: ["another model"])
        with pytest.raises(GateError, match="another model"):
            run.export("adapter", rows=2, force=True)
    assert (folder / "mark").exists()
    leftover = folder.with_name(".adapter.999999999.part")
    leftover.mkdir()
    run.export("adapter", rows=2, force=True)
    assert not (folder / "mark").exists() and [path.name for path in folder.parent.iterdir()] == ["adapter"]
    with pytest.raises(ConfigError, match="no export"):
        run.export("adapter", output=tmp_path, force=True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("kind", "base", "task", "method", "settings"),
    [
        ("adapter", "llama", "instruct", "prefix", {}),
        ("adapter", "llama", "instruct", "prompt", {}),
        ("adapter", "qwen", "instruct", "adalora", {}),
        ("adapter", "roberta", "classify", "lora", {}),
        ("adapter", "t5", "seq2seq", "ia3", {"train__lr": 0.1}),
        ("merged", "gemma", "instruct", "lora", {"task__template": "chatml"}),
        ("merged", "gpt2", "lm", "ia3", {}),
        ("merged", "t5", "seq2seq", "lora", {}),
        ("merged", "bert", "tag", "full", {"train__lr": 0.003}),
        ("merged", "bert", "extract_qa", "bitfit", {}),
        ("merged", "roberta", "classify", "lora", {}),
        ("merged", "roberta", "cloze", "lora", {}),
        ("merged", "llama", "classify", "lora", {"task__pooling": "stock"}),
        ("merged", "bert", "regress", "freeze", {}),
    ],
)
def test_stock_programs_load_it(
    kind: str,
    base: str,
    task: str,
    method: str,
    settings: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = request.getfixturevalue(f"tiny_{base}")
    run = tuned(tmp_path, folder, task, method, **settings)
    found = run.export(kind, rows=4)["parity"]
    assert found["kl_max"] < 1e-6 and found["token_ids_equal"] == 1 and found["top1"] in (1, None)
    assert found["same_answers"] in (1, None)
    assert found["metrics"]["run"] == pytest.approx(found["metrics"]["export"], rel=1e-3, abs=1e-6)
    if kind == "merged":
        merged = json.loads((run.path / "export" / "merged" / "config.json").read_text())
        known = json.loads((folder / "config.json").read_text())
        new = {"id2label", "label2id", "problem_type", "pad_token_id", "dtype", "architectures", "transformers_version"}
        changed = {key for key in merged if merged[key] != known.get(key)} - new
        assert changed <= {"num_labels", "use_cache", "tie_word_embeddings"}, changed


@pytest.mark.usefixtures("here")
def test_a_lower_dtype_is_rounded_once_and_tied_weights_stay_tied(tiny_llama: Path, tmp_path: Path) -> None:
    run = tuned(tmp_path, small.lively(tiny_llama, tmp_path / "base"))
    found = run.export("merged", dtype="bf16", rows=6)
    stored = load_file(Path(found["path"]) / "model.safetensors")
    assert Path(found["path"]).name == "merged-bf16" and {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in stored and 1e-9 < found["parity"]["kl_mean"] < 5e-3
    with pytest.raises(ConfigError, match="no q8_0"):
        run.export("merged", dtype="q8_0")


@pytest.mark.usefixtures("here")
def test_a_quantised_base_is_merged_into_what_it_was_trained_on(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised bases need bitsandbytes")
    run = tuned(tmp_path, small.lively(tiny_llama, tmp_path / "base"), model__quantise="nf4", train__lr=0.01)
    found = run.export("merged", dtype="f32", rows=4)
    assert found["parity"]["passed"] and found["parity"]["kl_mean"] < 1e-4
    assert "quantization_config" not in json.loads((Path(found["path"]) / "config.json").read_text())
    assert run.export("adapter", rows=4)["parity"]["kl_mean"] < 1e-4


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_onnx_of_a_pooled_classifier(tiny_bert: Path, tmp_path: Path, dtype: str) -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    import numpy as np
    import onnxruntime

    run = tuned(tmp_path, tiny_bert, "classify", task__pooling="mean")
    found = run.export("onnx", dtype=dtype, rows=6)
    assert found["parity"]["kl_max"] < (1e-6 if dtype == "f32" else 0.1)
    session = onnxruntime.InferenceSession(str(Path(found["path"]) / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == ["logits", "sentence_embedding"]
    rows = [[2, 7, 8, 9, 3], [2, 11, 3], [2, 12, 13, 3]]
    ids = np.array([row + [0] * (5 - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (5 - len(row)) for row in rows])
    together = session.run(["logits"], {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids})[0]
    for row, expected in zip(rows, together, strict=True):
        alone = np.array([row])
        given = {"input_ids": alone, "attention_mask": np.ones_like(alone), "token_type_ids": 0 * alone}
        assert session.run(["logits"], given)[0][0] == pytest.approx(expected, abs=1e-4 if dtype == "f32" else 0.1)
    settings = json.loads((Path(found["path"]) / "settings.json").read_text())
    assert settings["labels"] == ["bad", "good"] and settings["max_length"] == run.config.data.max_length


def test_refusals_name_a_way_out(
    tiny_llama: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        "prefix": tuned(tmp_path, tiny_llama, method="prefix"),
        "dora": tuned(tmp_path, tiny_llama, method="lora", method__dora=True),
        "full": tuned(tmp_path, tiny_llama, method="full", train__lr=0.001),
        "bottleneck": tuned(tmp_path, tiny_llama, method="adapter"),
        "pooled": tuned(tmp_path, tiny_bert, "classify", task__pooling="mean"),
    }
    for name, kind, said, way in (
        ("prefix", "merged", "cannot be merged", "tunery serve"),
        ("prefix", "vllm", "LoRA alone", "tunery serve"),
        ("dora", "vllm", "no DoRA", "--to merged"),
        ("full", "adapter", "no adapter", "--to merged"),
        ("full", "onnx", "no classifier", "--to merged"),
        ("bottleneck", "adapter", "no format", "tunery serve"),
        ("pooled", "merged", "no class", "--to onnx"),
        ("pooled", "adapter", "no class", "--to onnx"),
    ):
        answer = call(capsys, "export", runs[name].path, "--to", kind, "--json")
        assert answer.code == 2 and said in answer.error["problem"] and way in answer.error["hint"], (name, kind)
        assert nothing_there(runs[name])
    answer = call(capsys, "export", runs["full"].path, "--to", "merge", "--json")
    assert answer.code == 2 and answer.error["hint"] == "did you mean 'merged'?"
    assert {kind["name"] for kind in call(capsys, "export", "--json").value["kinds"]} == set(kinds.names())


@pytest.mark.usefixtures("here")
def test_vllm_gets_what_it_demands(tiny_llama: Path, tmp_path: Path) -> None:
    import yaml

    run = tuned(tmp_path, tiny_llama, method__r=12)
    folder = Path(run.export("vllm", rows=2)["path"])
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["max-lora-rank"] == 16 and settings["model"] == str(tiny_llama) and settings["enable-lora"] is True
    assert settings["lora-modules"] == [f"{run.path.name}=."] and (folder / settings["chat-template"]).is_file()
    script = (folder / "launch.sh").read_text()
    assert "--enable-lora --max-lora-rank 16" in script and os.access(folder / "launch.sh", os.X_OK)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_llama)


def snippet(folder: Path) -> str:
    """The code of the card's first part, how to use it."""
    found = re.search(r"^```\n(.*?)^```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, "no code"
    return found[1]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["merged", "adapter", "onnx"])
def test_the_cards_code_gives_a_regressions_numbers(
    kind: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="exports to ONNX need onnx, onnxscript and onnxruntime")
    run = tuned(tmp_path, tiny_bert, "regress", train__lr=0.003, task__pooling="stock")
    folder = Path(run.export(kind, rows=4)["path"])
    settings = json.loads((folder / "settings.json").read_text())
    state = run.tuned.task.state()
    assert {key: settings[key] for key in state} == state and state["mean"] == 2 and state["deviation"] > 1
    texts = ["very very parcel", "a text", "very order and very much more of it"]
    code = snippet(folder).replace("this folder", str(folder))
    code, changed = re.subn(r'\["a text".*?\]', repr(texts), code)
    assert changed == 1
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    found = names["numbers" if kind == "onnx" else "number"].tolist()
    assert found == pytest.approx([prediction.value for prediction in run.predict(texts)], rel=1e-4)


SYSTEM = 'You are "kind".\n说中文 🙂, don\'t say {{ braces }} or %}.'


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("kind", "base", "template"),
    [
        ("merged", "llama", "model"),
        ("merged", "gemma", "chatml"),  # with a BOS in front of all turns
        ("adapter", "llama", "model"),
        ("adapter", "gpt2", "human_assistant"),
        ("vllm", "llama", "alpaca"),
    ],
)
def test_plain_transformers_puts_the_runs_system_turn_in_front(
    kind: str, base: str, template: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(f"tiny_{base}")
    run = tuned(tmp_path, folder, task__name="instruct", task__template=template, task__system=SYSTEM)
    found = run.export(kind, rows=4)
    assert found["parity"]["token_ids_equal"] == 1
    tokenizer = AutoTokenizer.from_pretrained(found["path"])
    named = (Path(found["path"]) / "chat_template.jinja").read_text(encoding="utf-8")
    assert named == tokenizer.chat_template
    question, own = Message("user", "Where is it?"), Message("system", "Be brief.")
    answered = (question, Message("assistant", "Here."), Message("user", "And now?"))
    for messages, says in (((question,), SYSTEM), (answered, SYSTEM), ((own, question), "Be brief.")):
        example = Example("x", 1, messages=messages, text=messages[-1].content)
        chat = [{"role": message.role, "content": message.content} for message in messages]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == run.tuned.task.prompt(example, run.tuned.tokenizer, 999)
        text = tokenizer.decode(ids)
        assert text.count(says) == 1 and (says == SYSTEM or SYSTEM not in text)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["merged", "adapter", "vllm"])
def test_a_template_without_the_runs_system_turn_fails_the_gate(
    kind: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuned(tmp_path, tiny_llama, task__name="instruct", task__system=SYSTEM)
    monkeypatch.setattr(tokens, "chat_template", lambda subject: subject.task.state()["template"])
    with pytest.raises(GateError, match="of the questions have other token ids"):
        run.export(kind, rows=4)
    assert nothing_there(run)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("kind", "base", "task"),
    [("merged", "llama", "instruct"), ("adapter", "roberta", "classify"), ("onnx", "bert", "classify")],
)
def test_what_the_run_cleans_is_told(
    kind: str, base: str, task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="exports to ONNX need onnx, onnxscript and onnxruntime")
    steps = ["html", {"name": "length", "min": 2}]
    run = tuned(tmp_path, request.getfixturevalue(f"tiny_{base}"), task, data__clean=steps)
    folder = Path(run.export(kind, rows=4)["path"])
    settings = json.loads((folder / "settings.json").read_text())
    assert [step["name"] for step in settings["clean"]] == ["html", "length"] and settings["clean"][1]["min"] == 2
    assert ("labels" in settings) == (kind == "onnx")
    said = "data.clean: html, length; see settings.json"
    assert said in (folder / "README.md").read_text()
    assert "settings.json" in (folder / "SHA256SUMS").read_text()


def test_other_weights_than_those_that_were_scored(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tuned(tmp_path, tiny_llama)
    corrupt(run.dir.model / "adapter_model.safetensors")
    answer = call(capsys, "export", run.path, "--to", "adapter", "--json")
    assert answer.code == 4 and "not the weights" in answer.error["problem"] and nothing_there(run)


def test_a_killed_export_leaves_nothing_under_the_name(tiny_llama: Path, tmp_path: Path) -> None:
    run = tuned(tmp_path, tiny_llama)
    child = small.Child("export", run.path, "--to", "adapter", "--rows", "2", cwd=tmp_path)
    while child.running and not list((run.path / "export").glob(".adapter.*/built/adapter_config.json")):
        time.sleep(0.01)
    child.send(signal.SIGKILL)
    assert child.end()[0] == -signal.SIGKILL and nothing_there(run)


@pytest.mark.real
def test_minilm_as_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="exports to ONNX need onnxscript")
    pytest.importorskip("onnxruntime", reason="exports to ONNX need onnxruntime")
    in_process(monkeypatch)
    data = small.write(tmp_path / "rows.jsonl", small.labelled(64))
    run = small.train(tmp_path, Path("minilm"), data, task="classify", method="lora", train__epochs=2)
    for dtype, most in (("f32", 1e-6), ("int8", 0.05)):
        found = run.export("onnx", dtype=dtype)["parity"]
        assert found["passed"] and found["kl_mean"] < most
