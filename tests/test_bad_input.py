"""Bad input: one line with the place and what to do, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import verbs
from small import command, labelled, one_thread, questions, train, write  # noqa: F401
from tunery.run.run import Run

CONFIG, DATA, RESOURCE, MODEL = 2, 3, 5, 6


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with good training rows."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good.jsonl", labelled(20))
    write(tmp_path / "asked.jsonl", questions(20))
    return tmp_path


def check_told(answer: verbs.Answer, code: int, hint: bool = True) -> str:
    """Exit code, the one line on stderr, the object on stdout → the line.

    ``hint``: the problem does not say itself what to do ("must be greater than 0" does).
    """
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("tunery:")]
    error = answer.error
    assert error["problem"]
    assert error["hint"] or not hint, "say what to do"
    assert error["where"], "say where"
    assert error["hint"] in line
    return line


def check_nothing_begun(place: Path) -> None:
    found = list((place / "runs").rglob("*")) if (place / "runs").exists() else []
    assert not [path for path in found if path.is_file()], "nothing is written before the input is known to be good"
    assert not list(place.rglob("*.part"))


@dataclass(frozen=True, slots=True)
class Bad:
    """Files to write, arguments of ``train`` instead of good ones, and what is to be said."""

    code: int
    says: str
    args: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes | list[Any]] = field(default_factory=dict)
    where: str = ""
    hint: bool = True


GOOD = labelled(20)
CASES: dict[str, Bad] = {
    "missing file": Bad(DATA, "no such file", {"data.train": "nothing.jsonl"}, where="nothing.jsonl"),
    "missing validation file": Bad(DATA, "no such file", {"data.validation": "none.jsonl"}, where="none.jsonl"),
    "a folder of nothing": Bad(
        DATA, "a folder without data files", {"data.train": "empty"}, {"empty/readme.md": b"x"}, "empty"
    ),
    "a URL": Bad(DATA, "does not fetch", {"data.train": "https://example.org/a.csv"}, where="https://example.org/a.csv"),
    "unknown encoding": Bad(CONFIG, "unknown encoding", {"data.encoding": "utf-9"}, where="data.encoding"),
    "empty file": Bad(DATA, "is empty", {"data.train": "bad.jsonl"}, {"bad.jsonl": b""}, "bad.jsonl"),
    "line is not JSON": Bad(
        DATA, "not JSON", {"data.train": "bad.jsonl"}, {"bad.jsonl": [*GOOD[:2], '{"text": "x", "label"', *GOOD]},
        "bad.jsonl:3",
    ),
    "invalid UTF-8": Bad(
        DATA, "UTF-8", {"data.train": "bad.jsonl"},
        {"bad.jsonl": b'{"text": "a", "label": "good"}\n{"text": "\xff\xfe", "label": "bad"}\n'}, "bad.jsonl:2",
    ),
    "missing column": Bad(
        DATA, "label", {"data.train": "bad.jsonl", "task": "classify"},
        {"bad.jsonl": [{"text": f"t{i}"} for i in range(20)]}, "bad.jsonl",
    ),
    "missing value": Bad(
        DATA, "label", {"data.train": "bad.jsonl"}, {"bad.jsonl": [*GOOD[:4], {"text": "a"}, *GOOD[5:]]}, "bad.jsonl:5"
    ),
    "wrong type": Bad(
        DATA, "text", {"data.train": "bad.jsonl"}, {"bad.jsonl": [*GOOD, {"text": {"a": 1}, "label": "good"}]},
        "bad.jsonl:21",
    ),
    "not a number": Bad(
        DATA, "a number", {"data.train": "good.jsonl", "task": "regress"}, where="good.jsonl:1"
    ),
    "no usable rows": Bad(
        DATA, "can be used", {"data.train": "bad.jsonl", "data.on_bad_row": "drop"},
        {"bad.jsonl": [{"text": "", "label": "a"}] * 5}, "bad.jsonl:1",
    ),
    "all rows too long": Bad(
        DATA, "longer than", {"data.train": "bad.jsonl", "data.max_length": "4"},
        {"bad.jsonl": [{"text": f"parcel {i} " * 9, "label": "ab"[i % 2]} for i in range(20)]}, "bad.jsonl",
    ),
    "all answers cut off": Bad(
        DATA, "longer than", {"data.train": "asked.jsonl", "data.max_length": "8", "model": "LLAMA"},
        where="asked.jsonl",
    ),
    "too long and refused": Bad(
        DATA, "longer than 8", {"data.train": "asked.jsonl", "data.max_length": "8", "model": "LLAMA",
        "data.on_long": "error"}, where="asked.jsonl:",
    ),
    "one label only": Bad(
        DATA, "same label", {"data.train": "bad.jsonl"},
        {"bad.jsonl": [{"text": f"t{i}", "label": "a"} for i in range(9)]}, "bad.jsonl:1",
    ),
    "unknown label in validation": Bad(
        DATA, "'ugly'", {"data.validation": "bad.jsonl"}, {"bad.jsonl": [*GOOD[:2], {"text": "x", "label": "ugly"}]},
        "bad.jsonl:3",
    ),
    "label not among those given": Bad(DATA, "'good'", {"data.labels": "[bad, fine]"}, where="good.jsonl:"),
    "unknown key": Bad(CONFIG, "did you mean 'train.lr'", {"train.lrr": "1e-3"}, where="train.lrr"),
    "unknown key of a method": Bad(CONFIG, "did you mean 'method.alpha'", {"method.alhpa": "3"}, where="method.alhpa"),
    "unknown section": Bad(CONFIG, "did you mean 'train", {"tarin.lr": "1e-3"}, where="tarin"),
    "wrong value": Bad(CONFIG, "greater than 0", {"train.lr": "-1"}, where="train.lr", hint=False),
    "wrong kind of value": Bad(
        CONFIG, "a number is needed", {"train.epochs": "many"}, where="train.epochs", hint=False
    ),
    "unknown method": Bad(CONFIG, "did you mean 'lora'", {"method": "lorra"}, where="method"),
    "unknown task": Bad(CONFIG, "did you mean 'classify'", {"task": "classfy"}, where="task"),
    "unknown format": Bad(CONFIG, "format", {"data.format": "labls"}, where="data.format"),
    "unknown metric": Bad(CONFIG, "did you mean 'accuracy'", {"eval.metrics": "[acuracy]"}, where="eval.metrics"),
    "metric of another task": Bad(CONFIG, "does not fit", {"eval.metrics": "[rougeL]"}, where="eval.metrics"),
    "task that does not take the format": Bad(DATA, "", {"task": "instruct"}, where="good.jsonl"),
    "method that matches nothing": Bad(
        CONFIG, "no layer matches", {"method.targets": "[qq_proj]"}, where="method.targets"
    ),
    "longer than the model reads": Bad(
        CONFIG, "reads at most 512", {"data.max_length": "513"}, where="data.max_length"
    ),
    "bad template": Bad(
        CONFIG, "is not a template", {"data.train": "asked.jsonl", "model": "LLAMA", "task": "instruct",
        "task.template": "chatmll"}, where="task.template",
    ),
    "unknown model": Bad(MODEL, "smollm2", {"model": "smolm2"}, where="model.name"),
    "no such model folder": Bad(MODEL, "no such", {"model": "./no/such/folder"}, where="no/such/folder"),
    "a folder that is no model": Bad(MODEL, "config.json", {"model": "./empty"}, {"empty/readme.txt": b"x"}, "empty"),
    "damaged weights": Bad(MODEL, "damaged", {"model": "./DAMAGED"}, where="model.safetensors"),
    "pickled weights": Bad(MODEL, "pickle", {"model": "./PICKLED"}, where="PICKLED"),
    "an encoder asked to answer": Bad(
        MODEL, "needs a decoder", {"data.train": "asked.jsonl", "task": "instruct"}, where="model.name"
    ),
    "device that is not there": Bad(MODEL, "no device", {"model.device": "cuda:7"}, where="model.device"),
    "runs below a file": Bad(RESOURCE, "cannot write", {"run.dir": "good.jsonl/runs"}, where="good.jsonl/runs"),
    "runs in place of a file": Bad(RESOURCE, "cannot write", {"run.dir": "good.jsonl"}, where="good.jsonl"),
    "runs in /proc": Bad(RESOURCE, "", {"run.dir": "/proc/runs"}, where="/proc/runs"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_train_tells_what_is_wrong(
    name: str, place: Path, tiny_bert: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    for file, content in case.files.items():
        (place / file).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (place / file).write_bytes(content)
        else:
            write(place / file, content)
    args = {"data.train": "good.jsonl", "model": str(tiny_bert), "model.dtype": "float32", "train.max_steps": "1"}
    args |= case.args
    if args["model"] == "LLAMA":
        args["model"] = str(tiny_llama)
    elif args["model"].startswith("./DAMAGED"):
        shutil.copytree(tiny_bert, place / "DAMAGED")
        (place / "DAMAGED/model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0no json.")
    elif args["model"].startswith("./PICKLED"):
        shutil.copytree(tiny_bert, place / "PICKLED")
        (place / "PICKLED/model.safetensors").rename(place / "PICKLED/pytorch_model.bin")
    answer = verbs.call(capsys, "train", *(f"{key}={value}" for key, value in args.items()), "--json")
    line = check_told(answer, case.code, case.hint)
    assert case.says in line, line
    assert case.where in answer.error["where"], answer.error
    if name == "method that matches nothing":  # the model had to be there to know: a run that says that it failed
        (run,) = (place / "runs").iterdir()
        assert Run(run).manifest["status"] == "failed"
    else:
        check_nothing_begun(place)


def test_several_problems_of_the_configuration_are_told_at_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = verbs.call(capsys, "train", "train.lrr=1", "data.trian=x", "train.epochs=0", "--json")
    line = check_told(answer, CONFIG, hint=False)
    assert "did you mean 'train.lr'" in line
    assert all(key in line for key in ("train.lrr", "data.trian", "train.epochs"))


def test_errors_are_looked_for_in_order(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Command line and configuration, then data, then model; each is cheaper to find than the next."""
    wrong = ["train", "data.train=nothing.jsonl", "model=no/such", "method=lorra", "--json"]
    assert verbs.call(capsys, *wrong).code == CONFIG
    assert verbs.call(capsys, *(arg for arg in wrong if "method" not in arg)).code == DATA
    found = verbs.call(capsys, "train", "data.train=good.jsonl", "model=./no/such", "--json")
    assert found.code == MODEL


def test_a_damaged_configuration_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "tunery.yaml").write_text("model:\n  name: x\n train: [\n", encoding="utf-8")
    line = check_told(verbs.call(capsys, "train", "--json"), CONFIG)
    assert "tunery.yaml:" in line
    line = check_told(verbs.call(capsys, "train", "other.yaml", "--json"), CONFIG)
    assert "no such configuration file" in line


def test_data_or_a_run_where_a_configuration_is_meant(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "runs" / "first").mkdir(parents=True)
    (place / "runs" / "first" / "config.yaml").write_text("{}", encoding="utf-8")
    for verb, given, told in (
        ("train", "good.jsonl", "data.train=good.jsonl"),
        ("check", "rows.csv.gz", "tunery init rows.csv.gz"),
        ("race", str(place), f"data.train={place}"),
        ("train", "runs/first", "runs/first/config.yaml"),
    ):
        assert told in check_told(verbs.call(capsys, verb, given, "--json"), CONFIG)


def test_wrong_arguments(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (
        ["train", "--wrong"],
        ["eval"],
        ["trian"],
        ["train", "a.yaml", "b.yaml"],
        ["predict", "x", "--top-p", "7"],
    ):
        answer = verbs.call(capsys, *args, "--json")
        assert answer.code == CONFIG
        assert len([line for line in answer.err.splitlines() if line.startswith("tunery:")]) == 1
        assert answer.error["hint"]


# ------------------------------------------------------------------------------------------- the network


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that refuses connections, in this process too."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    yield


def test_a_hub_id_without_network(place: Path, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    began = time.monotonic()
    code, out, err = command("train", "data.train=good.jsonl", "model=org/name", "--json", cwd=place, env=env)
    line = check_told(verbs.Answer(code, out, err), MODEL)
    assert "cannot reach http://127.0.0.1:9" in line
    assert time.monotonic() - began < 60, "an error, not a hang"
    check_nothing_begun(place)


# -------------------------------------------------------------------------------------- run directories


@pytest.mark.parametrize("verb", ["eval", "predict", "resume", "chat"])
def test_a_run_directory_that_is_not_one(verb: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "folder").mkdir()
    (place / "folder/notes.txt").write_text("x")
    more = {"predict": ["--text", "x"]}.get(verb, [])
    for path, says in (("nothing", "no such run"), ("folder", "not a run directory"), ("good.jsonl", "")):
        line = check_told(verbs.call(capsys, verb, path, *more, "--json"), MODEL)
        assert says in line
        assert path in line
    assert [p.name for p in (place / "folder").iterdir()] == ["notes.txt"], "not even a lock is left there"


@pytest.mark.parametrize(
    ("file", "content"), [("manifest.json", "{"), ("manifest.json", "[]"), ("config.yaml", ": :"), ("config.yaml", "")]
)
def test_a_damaged_run(
    file: str, content: str, place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(place, tiny_bert, place / "good.jsonl", train__max_steps=1)
    (run.path / file).write_text(content, encoding="utf-8")
    answer = verbs.call(capsys, "predict", run.path, "--text", "x", "--json")
    assert answer.code in (CONFIG, MODEL), answer.err
    assert "Traceback" not in answer.err
    assert str(run.path) in answer.error["where"]


def test_damaged_weights_of_a_run(place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(place, tiny_bert, place / "good.jsonl", train__max_steps=1)
    file = run.path / "model/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    check_told(verbs.call(capsys, "predict", run.path, "--text", "x", "--json"), MODEL)
    file.unlink()
    check_told(verbs.call(capsys, "predict", run.path, "--text", "x", "--json"), MODEL)


def test_a_base_model_that_has_gone(place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(tiny_bert, place / "model")
    run = train(place, model, place / "good.jsonl", train__max_steps=1)
    shutil.rmtree(model)
    check_told(verbs.call(capsys, "predict", run.path, "--text", "x", "--json"), MODEL)


def test_bad_rows_to_evaluate_and_predict(place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(place, tiny_bert, place / "good.jsonl", train__max_steps=1)
    write(place / "bad.jsonl", [*GOOD[:2], "{"])
    write(place / "other.jsonl", [{"a": 1, "b": 2}])
    before = sorted(path.name for path in (run.path / "eval").iterdir())
    for args in (("eval", run.path, "--data"), ("predict", run.path, "--input")):
        assert "bad.jsonl:3" in check_told(verbs.call(capsys, *args, "bad.jsonl", "--json"), DATA)
        assert "other.jsonl" in check_told(verbs.call(capsys, *args, "other.jsonl", "--json"), DATA)
        check_told(verbs.call(capsys, *args, "nothing.jsonl", "--json"), DATA)
    answer = verbs.call(
        capsys, "predict", run.path, "--input", "good.jsonl", "--output", "good.jsonl/out.jsonl", "--json"
    )
    check_told(answer, RESOURCE)
    assert sorted(path.name for path in (run.path / "eval").iterdir()) == before


BROKEN = "caf\udce9"
"""What Python makes of an argument in Latin-1."""


@pytest.mark.parametrize("task", ["classify", "instruct"])
def test_a_text_that_is_not_utf_8(
    task: str, place: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    base, data = {"classify": ("bert", "good.jsonl"), "instruct": ("llama", "asked.jsonl")}[task]
    run = train(place, request.getfixturevalue(f"tiny_{base}"), place / data, task=task, train__max_steps=1)
    answer = verbs.call(capsys, "predict", run.path, "--text", "fine", "--text", BROKEN, "--json")
    line = check_told(answer, DATA)
    assert "not UTF-8" in line and answer.error["where"] == "<input>:2"
    quiet = verbs.call(capsys, "predict", run.path, "--text", BROKEN)
    assert (quiet.code, quiet.out) == (DATA, "") and quiet.err.count("\n") == 1


@pytest.mark.parametrize("bad", [BROKEN, "order " * 600])
def test_a_chat_goes_on_after_a_line_that_cannot_be_answered(
    bad: str, place: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(place, tiny_llama, place / "asked.jsonl", task="instruct", method="lora", train__max_steps=1)
    asked = ("chat", run.path, "--max-new-tokens", "3", "--json")
    monkeypatch.setattr(sys, "stdin", io.StringIO("parcel?\nand now?\n"))
    expected = verbs.call(capsys, *asked).value["messages"]
    assert [turn["role"] for turn in expected] == ["user", "assistant"] * 2
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{bad}\nparcel?\n{bad}\nand now?\n{bad}\n"))
    answer = verbs.call(capsys, *asked)
    assert answer.code == 0 and answer.value["messages"] == expected
    told = [line for line in answer.err.splitlines() if line.startswith("tunery:")]
    assert len(told) == 3 and all(line.endswith("/new starts over") for line in told)


# --------------------------------------------------------------------------------------------- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leaving: int) -> Path:
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"x" * max(free - leaving, 0))
    return disk / "filler"


def training(model: Path, data: Path, runs: Path, **more: str) -> list[str]:
    values = {"data.train": data, "model": model, "run.dir": runs, "run.name": "r", "train.max_steps": 4, **more}
    return ["train", "model.dtype=float32", "method=full", *(f"{k}={v}" for k, v in values.items()), "--json"]


def test_a_full_disk_at_the_beginning(
    small_disk: Path, place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(small_disk, 50_000)
    answer = verbs.call(capsys, *training(tiny_bert, place / "good.jsonl", small_disk / "runs"))
    assert "disk" in check_told(answer, RESOURCE)
    assert not (small_disk / "runs").exists()


@pytest.mark.parametrize("every", ["1", "1000"])
def test_a_disk_that_fills_up(
    every: str, small_disk: Path, place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for the run's beginning, not for its checkpoints, or not for its model."""
    fill(small_disk, (1 << 20) + 60_000)
    more = {"train.checkpoint_every": every, "train.keep": "last", "eval.every": "1000", "train.max_steps": "8"}
    from tunery.train.loop import Trainer

    original = Trainer.step

    def filling(self: Trainer) -> dict[str, float]:
        if self.now.step == 2:
            (small_disk / "more").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 40_000))
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", filling)
        answer = verbs.call(capsys, *training(tiny_bert, place / "good.jsonl", small_disk / "runs", **more))
    line = check_told(answer, RESOURCE)
    assert "No space left on device" in line
    assert "free some disk space" in line
    run = Run(small_disk / "runs/r")
    assert run.manifest["status"] == "failed"
    assert not (run.path / "model").exists()
    assert not list(run.path.rglob("*.part"))
    (small_disk / "filler").unlink()
    (small_disk / "more").unlink(missing_ok=True)
    answer = verbs.call(capsys, "resume", run.path, "--json")
    assert answer.code == 0, answer.err
    assert answer.value["status"] == "completed"


def test_a_disk_without_a_byte_left(
    small_disk: Path, place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the manifest can be written: then the directory does not stay either."""
    import types

    from tunery.run import prepare

    fill(small_disk, 0)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1 << 30))
    answer = verbs.call(capsys, *training(tiny_bert, place / "good.jsonl", small_disk / "runs"))
    monkeypatch.undo()
    check_told(answer, RESOURCE)
    assert not (small_disk / "runs/r").exists()


@pytest.mark.parametrize("method", ["full", "lora", "freeze"])
def test_no_space_for_the_model(
    method: str, place: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What safetensors raises, for machines that cannot mount a disk."""
    import safetensors.torch
    from safetensors import SafetensorError

    from tunery.models import weights

    def full(*_: object, **__: object) -> None:
        raise SafetensorError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }')

    for module in [
        weights,
        safetensors.torch,
        *(m for n, m in sys.modules.items() if n.startswith(("peft", "transformers.modeling_utils"))),
    ]:
        for name in ("save_file", "safe_save_file"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, full)
    args = training(tiny_bert, place / "good.jsonl", place / "runs", **{"method": method, "train.keep": "last"})
    answer = verbs.call(capsys, *[a for a in args if a != "method=full"], f"method={method}", "eval.every=1000")
    line = check_told(answer, RESOURCE)
    assert os.strerror(errno.ENOSPC) in line
    assert Run(place / "runs/r").manifest["status"] == "failed"
    assert not (place / "runs/r/model").exists()


# --------------------------------------------------------------------------------- as a real command


def test_as_a_real_command(place: Path, tiny_bert: Path) -> None:
    code, out, err = command("train", "data.train=nothing.jsonl", f"model={tiny_bert}", cwd=place)
    assert (code, out) == (DATA, "")
    assert err.startswith("tunery: nothing.jsonl: no such file")
    assert len(err.splitlines()) == 1
    code, out, err = command("train", "train.lrr=3", "--json", cwd=place)
    assert code == CONFIG
    assert json.loads(out)["error"]["where"] == "train.lrr"
    assert len(err.splitlines()) == 1
