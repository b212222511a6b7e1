"""Exports load in the programs they are for, give the run's answers, and are not published if they do not."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import small
from small import one_thread  # noqa: F401
from tunery.errors import ConfigError, GateError
from tunery.export import consume, consumers, kinds
from tunery.run.run import Run
from verbs import call

CONSUMERS = Path(str(consumers.__file__)).parent


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers work in this process: a new one imports torch and transformers for ten seconds."""
    spec = importlib.util.spec_from_file_location("consumer_run", CONSUMERS / "_run.py")
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)

    def run(job: dict[str, Any], folder: Path) -> Any:
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(job))
        worker.main(folder)
        return json.loads((folder / "found.json").read_text())

    monkeypatch.setattr(consume, "run", run)


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
    return not any((run.path / "export").glob("*"))


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
def test_an_older_export_is_replaced_only_by_one_that_passes(tiny_llama: Path, tmp_path: Path) -> None:
    run = tuned(tmp_path, tiny_llama)
    folder = Path(run.export("adapter", rows=2)["path"])
    (folder / "mark").touch()
    with pytest.raises(ConfigError, match="there already"):
        run.export("adapter", rows=2)
    with pytest.raises(GateError, match="mean KL"):
        run.export("adapter", rows=2, force=True, max_kl=1e-300)
    assert (folder / "mark").exists()
    leftover = folder.with_name(".adapter.999999999.part")
    leftover.mkdir()
    run.export("adapter", rows=2, force=True)
    assert not (folder / "mark").exists() and [path.name for path in folder.parent.iterdir()] == ["adapter"]
    with pytest.raises(ConfigError, match="no export"):
        run.export("adapter", output=tmp_path, force=True)
