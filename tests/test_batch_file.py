"""``tunery batch``: every row of a file exactly once and in order, whenever the process was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import verbs
from small import labelled, one_thread, questions, train, write  # noqa: F401
from tunery.errors import ConfigError, DataError, ModelError, ResourceError, TuneryError
from tunery.generate.engine import Sampling
from tunery.run import batch
from tunery.run.run import Run

WINDOW = batch.BATCHES * 2
SAMPLED = Sampling(max_new_tokens=2, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def answerer(tiny_llama: Path, folder: Path) -> Run:
    data = write(folder / "asked.jsonl", questions(12))
    return train(folder / "runs", tiny_llama, data, method="lora", train__max_steps=2, run__name="answerer",
                 eval__batch_size=2)  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, folder: Path) -> Run:
    data = write(folder / "train.jsonl", labelled(24))
    return train(folder / "runs", tiny_bert, data, method="bitfit", train__max_steps=2, run__name="classifier",
                 eval__batch_size=2)  # fmt: skip


def asked(path: Path, count: int) -> Path:
    return write(path, [{"question": f"where is parcel {i}{' now' * (i % 7)}?"} for i in range(count)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def state_of(output: Path) -> dict[str, Any]:
    return dict(json.loads(batch.state_file(output).read_text()))


# -------------------------------------------------------------------------------------------- what is written


def test_every_row_once_as_predict_says(answerer: Run, classifier: Run, tmp_path: Path) -> None:
    """Across several windows; what is sampled depends on the number of the row."""
    data = asked(tmp_path / "in.jsonl", 2 * WINDOW + 3)
    found = answerer.batch(str(data), tmp_path / "out.jsonl", SAMPLED)
    assert (found["rows"], found["bad"], found["began_at"]) == (2 * WINDOW + 3, 0, 0)
    rows = lines(tmp_path / "out.jsonl")
    assert [row["row"] for row in rows] == list(range(1, 2 * WINDOW + 4))
    assert [row["where"] for row in rows] == [f"{data}:{i}" for i in range(1, 2 * WINDOW + 4)]
    told = answerer.predict_file(str(data), SAMPLED)
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in told]
    assert state_of(tmp_path / "out.jsonl")["finished"]
    texts = write(tmp_path / "texts.csv", ["text", "so great", "so awful", "fine"])
    classifier.batch(str(texts), tmp_path / "labels.jsonl")
    made = lines(tmp_path / "labels.jsonl")
    assert [{k: v for k, v in row.items() if k != "row"} for row in made] == classifier.predict_file(str(texts))


def test_rows_that_cannot_be_read_are_records_with_the_error(answerer: Run, tmp_path: Path) -> None:
    long = {"question": "word " * 3000}
    data = write(tmp_path / "in.jsonl", [{"question": "a?"}, "{broken", {"question": ""}, long, {"question": "b?"}])
    found = answerer.batch(str(data), tmp_path / "out.jsonl")
    rows = lines(tmp_path / "out.jsonl")
    assert (found["rows"], found["bad"]) == (5, 3)
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5] and [row["where"] for row in rows] == [
        f"{data}:{i}" for i in range(1, 6)
    ]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "tokens" in rows[3]["error"] and all("prediction" not in row for row in rows[1:4])
    with pytest.raises(DataError) as caught:
        answerer.batch(str(data), tmp_path / "strict.jsonl", on_bad_row="error")
    assert caught.value.where == f"{data}:2"
    only_bad = write(tmp_path / "bad.jsonl", ["{]", "]"])
    assert answerer.batch(str(only_bad), tmp_path / "bad_out.jsonl")["bad"] == 2


def test_several_files_and_formats(classifier: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["text", "great", "awful"])
    write(tmp_path / "b.jsonl", [{"text": "nice"}])
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")]
    assert classifier.batch(files, tmp_path / "out.jsonl")["rows"] == 3
    assert [row["where"] for row in lines(tmp_path / "out.jsonl")] == [
        f"{files[0]}:2",
        f"{files[0]}:3",
        f"{files[1]}:1",
    ]


# ------------------------------------------------------------------------------------------------- killed


def killed(run: Run, data: Path, output: Path, after: float) -> bool:
    """Whether a process that scores the file was killed, ``after`` seconds after its start, before it was done."""
    child = os.fork()
    if child == 0:  # it has the model, and no start-up
        code = 1
        try:
            run.batch(str(data), output, SAMPLED)
            code = 0
        finally:
            os._exit(code)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it ended with an error"
    return os.WIFSIGNALED(status)


def test_killed_at_twenty_random_moments(answerer: Run, tmp_path: Path) -> None:
    data, whole, output = asked(tmp_path / "in.jsonl", 40 * WINDOW), tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    began = time.monotonic()
    answerer.batch(str(data), whole, SAMPLED)
    window = (time.monotonic() - began) / 40
    pick, kills, begun, torn = random.Random(0), 0, [0], 0
    while kills < 20:
        assert killed(answerer, data, output, pick.uniform(0, 2.5 * window)), "done before it was killed 20 times"
        kills += 1
        if output.exists() and batch.state_file(output).exists():
            state = state_of(output)
            begun.append(state["rows"])
            torn += output.stat().st_size > state["bytes"]
    assert begun == sorted(begun), "what is done stays done"
    assert begun[-1] > 0, "it never got anywhere"
    answerer.batch(str(data), output, SAMPLED)
    assert output.read_bytes() == whole.read_bytes()
    assert [row["where"] for row in lines(output)] == [f"{data}:{i}" for i in range(1, 40 * WINDOW + 1)]


def interrupted(run: Run, data: Path, output: Path, windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores so many windows, and dies in the next one."""
    with monkeypatch.context() as patch:
        original, left = batch._predicted, [windows]

        def dying(*args: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return original(*args)

        patch.setattr(batch, "_predicted", dying)
        with pytest.raises(KeyboardInterrupt):
            run.batch(str(data), output, SAMPLED)


@pytest.mark.parametrize("tail", [b"", b'{"row": 17, "whe', b'{"row": 17}\n{"row": 18}\n', b"\xff\x00"])
def test_a_torn_end_is_cut_off(answerer: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes) -> None:
    data, whole, output = asked(tmp_path / "in.jsonl", 3 * WINDOW), tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    answerer.batch(str(data), whole, SAMPLED)
    interrupted(answerer, data, output, 1, monkeypatch)
    assert state_of(output)["rows"] == WINDOW
    with output.open("ab") as stream:
        stream.write(tail)
    assert answerer.batch(str(data), output, SAMPLED)["began_at"] == WINDOW
    assert output.read_bytes() == whole.read_bytes()


def test_what_is_done_is_done(answerer: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = asked(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    answerer.batch(str(data), output)
    before = output.read_bytes()
    monkeypatch.setattr(batch, "_predicted", lambda *_: pytest.fail("nothing is computed again"))
    assert answerer.batch(str(data), output)["began_at"] == 3
    assert output.read_bytes() == before


# ----------------------------------------------------------------------------------------------- refusals


def test_other_input_run_or_sampling(
    answerer: Run, classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = asked(tmp_path / "in.jsonl", 2 * WINDOW), tmp_path / "out.jsonl"
    interrupted(answerer, data, output, 1, monkeypatch)
    before = output.read_bytes()
    with pytest.raises(ConfigError, match="the sampling is not what this output was begun with"):
        answerer.batch(str(data), output)
    with pytest.raises(ConfigError, match="the run is not"):
        classifier.batch(str(data), output, SAMPLED)
    asked(data, 2 * WINDOW + 1)
    with pytest.raises(ConfigError, match="the input is not") as caught:
        answerer.batch(str(data), output, SAMPLED)
    assert "--restart" in caught.value.hint and caught.value.code == 2
    assert output.read_bytes() == before
    assert answerer.batch(str(data), output, SAMPLED, restart=True)["rows"] == 2 * WINDOW + 1
    assert len(lines(output)) == 2 * WINDOW + 1


def test_an_output_that_was_changed_or_is_another_file(
    answerer: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = asked(tmp_path / "in.jsonl", 2 * WINDOW), tmp_path / "out.jsonl"
    interrupted(answerer, data, output, 1, monkeypatch)
    good = output.read_bytes()
    for changed in (good[:-5], good.replace(b"parcel 1", b"parcel X", 1)):
        output.write_bytes(changed)
        with pytest.raises(ConfigError, match="has been changed"):
            answerer.batch(str(data), output, SAMPLED)
        assert output.read_bytes() == changed
    for text in ("{", '{"schema_version": 1, "more": 2}', "[]"):
        batch.state_file(output).write_text(text)
        with pytest.raises(ModelError):
            answerer.batch(str(data), output, SAMPLED)
    other = tmp_path / "precious.txt"
    other.write_text("do not lose me")
    with pytest.raises(ConfigError, match="no batch has begun"):
        answerer.batch(str(data), other, SAMPLED)
    assert other.read_text() == "do not lose me"


def test_places_and_inputs_that_cannot_be_used(answerer: Run, tmp_path: Path) -> None:
    data = asked(tmp_path / "in.jsonl", 2)
    with pytest.raises(ConfigError, match="second time"):
        answerer.batch("-", tmp_path / "out.jsonl")
    with pytest.raises(DataError):
        answerer.batch(str(tmp_path / "nothing.jsonl"), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out.jsonl", tmp_path):
        with pytest.raises(ResourceError):
            answerer.batch(str(data), place)


def test_one_process_at_a_time(answerer: Run, tmp_path: Path) -> None:
    data, output = asked(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    with batch._opened(output), pytest.raises(TuneryError, match="another process"):
        answerer.batch(str(data), output)


def test_the_verb(answerer: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = asked(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    args = ["batch", answerer.path, "--input", data, "--output", output, "--max-new-tokens", "3"]
    answer = verbs.call(capsys, *args, "--json")
    assert answer.code == 0, answer.err
    assert (answer.value["rows"], answer.value["bad"]) == (3, 0) and len(lines(output)) == 3
    assert f"3 rows in {output}" in verbs.call(capsys, *args).out
    refused = verbs.call(capsys, *args, "--seed", "4", "--json")
    assert refused.code == 2 and refused.error["where"] == str(output)
    assert verbs.call(capsys, *args, "--seed", "4", "--restart").code == 0
