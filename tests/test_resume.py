"""Stopped at any moment and resumed, a run ends with the same bits as one that was never stopped.

Dropout is on in all these runs, so that the random state matters.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from small import Child, digests, labelled, log, losses, one_thread, questions, weights_of, write  # noqa: F401
from tunery import registry
from tunery.errors import DataError, Interrupted, ModelError
from tunery.run import train as training
from tunery.run.run import Run
from tunery.train import checkpoint
from tunery.train.loop import Trainer

METHODS = registry.names("method")
STEPS = 24


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Evaluation every 5 steps with the best weights kept, a checkpoint every 2."""
    found: dict[str, Any] = {
        "model.dtype": "float32",
        "train.max_steps": STEPS,
        "train.batch_size": 4,
        "train.dropout": 0.2,
        "train.lr": 3e-3,
        "train.patience": None,
        "train.checkpoint_every": 2,
        "eval.every": 5,
        "eval.max_new_tokens": 2,
        "eval.generate_rows": 2,
        "run.dir": str(folder),
    }
    return found | {key.replace("__", "."): value for key, value in changes.items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", labelled(30))


def run_of(path: Path, changes: dict[str, Any], model: Path, data: Path) -> Run:
    import tunery

    return tunery.train(data, model=str(model), **settings(path, **changes))


def check_equal(run: Run, whole: Run) -> None:
    """The same weights, and every step in the log once, with the same loss."""
    assert run.manifest["status"] == "completed"
    assert digests(run.path / "model") == digests(whole.path / "model")
    keys = ("step", "epoch", "loss", "lr", "grad_norm", "validation", "losses")
    assert [{k: r[k] for k in keys if k in r} for r in log(run)] == [
        {k: r[k] for k in keys if k in r} for r in log(whole)
    ]
    for key in ("steps", "best_step", "supervised_tokens", "tokens", "metrics", "base_metrics", "stopped_early"):
        assert run.manifest[key] == whole.manifest[key], key
    left = [path.name for path in run.path.rglob("*") if path.name.endswith(".part")]
    assert not left, "nothing half-written stays"


def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch, how: type[BaseException] = SystemExit) -> None:
    """The process "dies" when it is about to do that step."""
    original = Trainer.step

    def dying(self: Trainer) -> dict[str, float]:
        if self.now.step == step:
            raise how("killed")
        return original(self)

    monkeypatch.setattr(Trainer, "step", dying)


# -------------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model", "rows", "dtype"), [("tiny_bert", labelled, "float32"), ("tiny_gpt2", questions, "bfloat16")]
)
def test_every_method_resumes_exactly(
    method: str, model: str, rows: Any, dtype: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, file = request.getfixturevalue(model), write(tmp_path / "rows.jsonl", rows(20))
    changes = {"method": method, "train__max_steps": 8, "eval__every": 3, "model__dtype": dtype}
    whole = run_of(tmp_path / "whole", changes, folder, file)
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(5, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, folder, file)
    assert [record["step"] for record in log(Run(tmp_path / "cut/cut")) if "loss" in record] == [1, 2, 3, 4, 5]
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


def test_stopped_before_the_first_checkpoint(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_of(tmp_path / "whole", {"train__max_steps": 6}, tiny_bert, data)
    with monkeypatch.context() as patch:
        stopping_at(1, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", {"train__max_steps": 6, "run__name": "cut"}, tiny_bert, data)
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


def test_early_stopping_counts_on(tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience, the best number and the best weights are part of what is resumed."""
    changes = {"train__patience": 4, "train__min_delta": 9.0, "eval__every": 1, "train__checkpoint_every": 1}
    whole = run_of(tmp_path / "whole", changes, tiny_bert, data)
    assert (whole.manifest["steps"], whole.manifest["best_step"]) == (5, 1)
    with monkeypatch.context() as patch:
        stopping_at(3, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, tiny_bert, data)
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


def test_stopped_while_the_finished_model_is_saved(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunery.run.build import Tuned

    changes = {"train__max_steps": 6}
    whole = run_of(tmp_path / "whole", changes, tiny_bert, data)

    def dying(self: Tuned, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "half").write_text("…")
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Tuned, "save", dying)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, tiny_bert, data)
    assert not (tmp_path / "cut/cut/model").exists()
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


# ------------------------------------------------------------------------------------------ checkpoints


def interrupted(folder: Path, model: Path, data: Path, step: int = 9, **changes: Any) -> Path:
    """The directory of a run that died before step ``step`` + 1."""
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(step, patch)
        with pytest.raises(SystemExit):
            run_of(folder, {"run__name": "cut"} | changes, model, data)
    return folder / "cut"


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "no-manifest", "empty-manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, tiny_bert: Path, data: Path, tmp_path: Path
) -> None:
    whole = run_of(tmp_path / "whole", {"train__max_steps": 12}, tiny_bert, data)
    path = interrupted(tmp_path, tiny_bert, data, train__max_steps=12)
    steps = sorted((path / "checkpoints").glob("step-*"))
    assert [step.name for step in steps] == ["step-000006", "step-000008"]
    tensors, manifest = steps[-1] / "optimizer.safetensors", steps[-1] / "manifest.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-9])
    elif damage == "flip":
        content = bytearray(tensors.read_bytes())
        content[-5] ^= 255
        tensors.write_bytes(content)
    elif damage == "missing":
        tensors.unlink()
    elif damage == "no-manifest":
        manifest.unlink()
    else:
        manifest.write_text("")
    run = Run(training.resume(path).path)
    assert "resuming at step 6" in (run.path / "log.txt").read_text(encoding="utf-8")
    check_equal(run, whole)


def test_only_damaged_checkpoints_start_anew(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", {"train__max_steps": 12}, tiny_bert, data)
    path = interrupted(tmp_path, tiny_bert, data, train__max_steps=12)
    for manifest in (path / "checkpoints").glob("step-*/manifest.json"):
        manifest.write_text("{}")
    run = Run(training.resume(path).path)
    assert "starting anew" in (run.path / "log.txt").read_text(encoding="utf-8")
    check_equal(run, whole)


def test_old_checkpoints_are_pruned(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, {}, tiny_bert, data)
    names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert len([name for name in names if name.startswith("step")]) == 2
    assert len([name for name in names if name.startswith("best")]) <= 2
    assert all(name.startswith(("step-", "best-")) for name in names)


def test_a_half_line_in_the_log_is_dropped(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", {"train__max_steps": 12}, tiny_bert, data)
    path = interrupted(tmp_path, tiny_bert, data, train__max_steps=12)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 10, "lo')
    check_equal(Run(training.resume(path).path), whole)


def test_each_process_gets_its_own_random_state_back() -> None:
    with torch.random.fork_rng(devices=[]):
        states, drawn = [], []
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(checkpoint.random_state())
            drawn.append(torch.rand(3).tolist())
        stored = checkpoint.of_processes(states)
        for rank, expected in enumerate([*drawn, drawn[0]]):  # the third process was not there
            checkpoint.set_random_state(stored, rank)
            assert torch.rand(3).tolist() == expected


SCRIPT = """
import json, sys
import tunery
from tunery.models import machine
from tunery.run import train as training
from tunery.train.loop import Trainer

machine.cpus = lambda: 1
settings = json.loads(sys.argv[1])
tunery.train(**settings, **{"run.name": "whole"})
step = Trainer.step

def dying(self):
    if self.now.step == 3:
        raise SystemExit
    return step(self)

Trainer.step = dying
try:
    tunery.train(**settings, **{"run.name": "cut"})
except SystemExit:
    Trainer.step = step
training.resume(settings["run.dir"] + "/cut")
"""


@pytest.mark.slow
def test_two_processes_resume_exactly(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    """Each has a dropout of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    values = settings(tmp_path, train__max_steps=6, eval__base=False)
    values |= {"data": str(data), "model": str(tiny_bert), "method": "full"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
            *(script, json.dumps(values)),
        ],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cut, whole = Run(tmp_path / "cut"), Run(tmp_path / "whole")
    assert digests(cut.path / "model") == digests(whole.path / "model")
    assert losses(cut) == losses(whole)


# ---------------------------------------------------------------------------------------- what is refused


def test_a_completed_run_is_not_resumed(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, {"train__max_steps": 2}, tiny_bert, data)
    before = digests(run.path)
    with pytest.raises(ModelError, match="completed") as caught:
        training.resume(run.path)
    assert caught.value.hint
    assert digests(run.path) == before


def test_changed_data_is_refused(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    path = interrupted(tmp_path, tiny_bert, data)
    write(data, [*labelled(30), {"text": "one more", "label": "good"}])
    with pytest.raises(DataError, match="data changed") as caught:
        training.resume(path)
    assert caught.value.where == str(data)
    data.unlink()
    with pytest.raises(DataError, match="no such file"):
        training.resume(path)


def test_a_folder_with_another_file_is_other_data(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    folder = write(tmp_path / "rows" / "a.jsonl", labelled(30)).parent
    path = interrupted(tmp_path, tiny_bert, folder)
    added = write(folder / "b.jsonl", [{"text": "one more", "label": "good"}])
    with pytest.raises(DataError, match="data changed") as caught:
        training.resume(path)
    assert caught.value.where == str(added)


def test_a_changed_base_model_is_refused(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_bert, tmp_path / "model")
    path = interrupted(tmp_path, model, data)
    tensors = load_file(model / "model.safetensors")
    next(iter(tensors.values())).add_(1.0)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="base model changed"):
        training.resume(path)


def test_relative_paths_resume_from_another_folder(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_of(tmp_path / "whole", {"train__max_steps": 6}, tiny_bert, data)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, "model")
    interrupted(Path("runs"), Path("model"), Path(data.name), 4, train__max_steps=6)
    monkeypatch.chdir("/")
    resumed = Run(training.resume(tmp_path / "runs/cut").path)
    assert weights_of(resumed.path / "model").keys() == weights_of(whole.path / "model").keys()
    name = "adapter_model.safetensors"
    assert digests(resumed.path / "model")[name] == digests(whole.path / "model")[name]


def test_a_run_is_resumed_by_one_process_only(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    path = interrupted(tmp_path, tiny_bert, data)
    run = Run(path)
    with run.dir.lock(), pytest.raises(ModelError, match="another process"):
        training.resume(path)
    assert run.manifest["status"] == "running"


# ------------------------------------------------------------------------------------- real signals


def arguments(model: Path, data: Path, runs: Path) -> list[str]:
    values = settings(runs, run__name="cut")
    plain = {key: "null" if value is None else value for key, value in values.items()}
    return ["train", f"model={model}", f"data.train={data}", *(f"{key}={value}" for key, value in plain.items())]


def steps_logged(path: Path) -> int:
    file = path / "metrics.jsonl"
    return file.read_bytes().count(b'"loss": ') if file.exists() else 0


def wait_for(process: Child, path: Path, steps: int) -> None:
    """Until the process has logged that many steps, or is over."""
    end = time.monotonic() + 100
    while steps_logged(path) < steps and process.running:
        assert time.monotonic() < end, "no step was ever logged"
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_checkpoints_first(number: signal.Signals, tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    changes = {"train__checkpoint_every": 10_000, "eval__every": 10_000, "train__max_steps": 5000}
    values = arguments(tiny_bert, data, tmp_path)
    values += [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    process = Child(*values, "--json", cwd=tmp_path)
    wait_for(process, tmp_path / "cut", 3)
    process.send(number)
    code, out, err = process.end()
    assert code == 130
    assert json.loads(out)["error"]["code"] == 130
    lines = [line for line in err.splitlines() if line.startswith("tunery:")]
    assert len(lines) == 1
    assert f"tunery resume {tmp_path / 'cut'}" in lines[0]
    assert "Traceback" not in err
    run = Run(tmp_path / "cut")
    assert run.manifest["status"] == "interrupted"
    (checkpoint,) = (run.path / "checkpoints").glob("step-*")
    done = int(checkpoint.name.removeprefix("step-"))
    assert done == steps_logged(run.path) >= 3
    assert done < 5000


def test_a_second_interruption_and_an_interruption_in_process(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C twice in the life of a run, each time resumed."""
    whole = run_of(tmp_path / "whole", {}, tiny_bert, data)
    original = Trainer.step

    def pressed(self: Trainer) -> dict[str, float]:
        if self.now.step in (3, 11):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "step", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"):
        run_of(tmp_path, {"run__name": "cut"}, tiny_bert, data)
    with pytest.raises(Interrupted, match="SIGINT"):
        training.resume(tmp_path / "cut")
    check_equal(Run(training.resume(tmp_path / "cut").path), whole)
    assert signal.getsignal(signal.SIGINT) is before, "handlers are put back"


def test_killed_three_times_at_random_moments(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL, three times, in one run with a checkpoint at every second step; then to the end."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown if the test fails
    pick = random.Random(seed)
    changes = {"train__max_steps": 150}
    whole = run_of(tmp_path / "whole", changes, tiny_bert, data)
    path = tmp_path / "cut"
    begin = [*arguments(tiny_bert, data, tmp_path), "train.max_steps=150"]
    for number in range(3):
        process = Child(*(["resume", path] if number else begin), cwd=tmp_path)
        wait_for(process, path, steps_logged(path) + pick.randint(1, 5))
        time.sleep(pick.random() * 0.05)  # within a step, a checkpoint, an evaluation
        process.send(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL, "it was over before it was killed"
        assert Run(path).manifest["status"] == "running"
    code, _, err = Child("resume", path, cwd=tmp_path).end()
    assert code == 0, err
    check_equal(Run(path), whole)
