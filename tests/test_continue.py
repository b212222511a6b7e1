"""``train --continue``: a new run from the weights of a finished one, with new rows and a share of the old ones."""

from __future__ import annotations

import doctest
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import tunery
import verbs
from small import digests, labelled, log, one_thread, questions, train, weights_of, write  # noqa: F401
from test_resume import stopping_at
from tunery import registry
from tunery.errors import ConfigError, DataError, ModelError
from tunery.run import replay
from tunery.run import train as training
from tunery.run.run import Run

METHODS = [*({"name": name} for name in registry.names("method")), {"name": "lora", "init": "pissa"}]
METHODS += [{"name": "lora", "dora": True}, {"name": "prefix", "projection": True}]
METHODS += [{"name": "p_tuning", "encoder": "mlp"}, {"name": "adapter", "placement": "parallel"}]


def ids(method: dict[str, Any]) -> str:
    return "-".join(map(str, method.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("continue")


@pytest.fixture(scope="module")
def old(tiny_bert: Path, folder: Path) -> Run:
    """A classifier of 27 training rows and 3 validation rows, with a test file."""
    data = write(folder / "old.jsonl", labelled(30))
    test = write(folder / "test.jsonl", labelled(6, seed=9))
    return train(
        folder / "runs", tiny_bert, data, data__test=str(test), method="lora", train__lr=5e-3, train__max_steps=6,
        run__name="old", data__near_duplicates=False,
    )  # fmt: skip


@pytest.fixture
def new(tmp_path: Path) -> Path:
    rows = [{"text": f"brand new {mood} {i}", "label": label} for i in range(6) for mood, label in
            (("superb", "good"), ("dreadful", "bad"))]  # fmt: skip
    return write(tmp_path / "new.jsonl", rows)


def go_on(parent: Run | Path, data: Path, folder: Path, *overrides: str, **settings: Any) -> Run:
    given = ["run.report=false", "train.max_steps=4", f"run.dir={folder}", *overrides]
    return tunery.train(data, continue_from=parent, overrides=given, **settings)


# ----------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("method", METHODS, ids=ids)
@pytest.mark.parametrize(("model", "rows"), [("tiny_bert", labelled), ("tiny_llama", questions)])
def test_every_method_begins_with_the_parents_weights(
    method: dict[str, Any], model: str, rows: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A continued run of no steps is its parent, to the bit."""
    file = write(tmp_path / "rows.jsonl", rows(12))
    if method["name"] == "bitfit":
        method = {**method, "norms": True}
    if method["name"] == "adalora":
        method = {**method, "init_r": 4, "target_r": 2, "every": 1}
    given = {"train__max_steps": 5, "train__lr": 5e-2, "run__name": "parent", "eval__baselines": False}
    parent = train(tmp_path, request.getfixturevalue(model), file, method=method, **given)
    child = go_on(parent, file, tmp_path, "train.max_steps=0", "run.name=child")
    assert digests(child.path / "model").keys() == digests(parent.path / "model").keys()
    was, now = weights_of(parent.path / "model"), weights_of(child.path / "model")
    assert was.keys() == now.keys() and all(was[name].equal(now[name]) for name in was)
    found = child.manifest["retention"]
    assert found["new"]["before"] == found["new"]["after"] == child.metrics
    more = go_on(parent, file, tmp_path, "train.max_steps=2", "run.name=more")
    later = weights_of(more.path / "model")
    assert any(not later[name].equal(was[name]) for name in was)


def test_the_same_configuration_gives_the_same_weights(old: Run, new: Path, tmp_path: Path) -> None:
    one, two = (go_on(old, new, tmp_path, f"run.name={name}") for name in ("one", "two"))
    assert digests(one.path / "model") == digests(two.path / "model")
    again = tunery.train(config=one.path / "config.yaml", overrides=["run.name=three"])
    assert digests(again.path / "model") == digests(one.path / "model")
    other = go_on(old, new, tmp_path, "train.seed=1")
    assert digests(other.path / "model") != digests(one.path / "model")


def test_a_continued_run_resumes_exactly(old: Run, new: Path, tmp_path: Path) -> None:
    settings = ("train.max_steps=8", "eval.every=3")
    whole = go_on(old, new, tmp_path, *settings, "run.name=whole")
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(5, patch)
        with pytest.raises(SystemExit):
            go_on(old, new, tmp_path, *settings, "run.name=cut")
    run = Run(training.resume(tmp_path / "cut").path)
    assert digests(run.path / "model") == digests(whole.path / "model")
    assert [r["loss"] for r in log(run) if "loss" in r] == [r["loss"] for r in log(whole) if "loss" in r]
    assert run.manifest["retention"] == whole.manifest["retention"]


def test_a_parent_that_changes_under_a_run_is_noticed(old: Run, new: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(old.path, parent)
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(2, patch)
        with pytest.raises(SystemExit):
            go_on(parent, new, tmp_path, "run.name=cut")
    other = go_on(old, new, tmp_path, "run.name=other")
    shutil.copy(other.path / "model/adapter_model.safetensors", parent / "model/adapter_model.safetensors")
    with pytest.raises(ModelError, match="parent's weights have changed"):
        training.resume(tmp_path / "cut")


# ------------------------------------------------------------------------------------------------- rows


def places(run: Run, bucket: str) -> set[str]:
    """Where the rows of a bucket stand, by the ledger."""
    found = set()
    for part in json.loads((run.path / "ledger.json").read_text())["files"]:
        for span in (part["buckets"].get(bucket) or "").split(", "):
            if span:
                first, _, last = span.partition("-")
                found |= {f"{Path(part['file']).name}:{i}" for i in range(int(first), int(last or first) + 1)}
    return found


def test_a_share_of_the_old_training_rows_is_replayed(old: Run, new: Path, tmp_path: Path) -> None:
    run = go_on(old, new, tmp_path, "train.replay=0.3")
    trained, held = places(old, "used:train"), places(old, "used:validation")
    replayed, left = places(run, "used:replay"), places(run, "dropped:not_replayed")
    assert len(trained) == 27 and len(replayed) == 8 and replayed | left == trained and not replayed & left
    assert places(run, "used:kept") == held
    assert run.manifest["rows"]["train"] == len(places(run, "used:train")) + 8
    ledger = json.loads((run.path / "ledger.json").read_text())
    assert ledger["rows_read"] == 12 + 27 + 3 == ledger["used"] + sum(ledger["dropped"].values())
    parent = run.manifest["parent"]
    assert parent["path"] == str(old.path) and (parent["replayed"], parent["old_rows"]) == (8, 27)
    assert len(parent["weights"]) == 64
    assert str(folder_of(old) / "old.jsonl") in run.manifest["data"]
    again = go_on(old, new, tmp_path, "train.replay=0.3", "train.seed=7")
    assert len(places(again, "used:replay")) == 8 and places(again, "used:replay") != replayed


def folder_of(run: Run) -> Path:
    return run.path.parent.parent


def test_the_draw_gives_every_answer_its_share() -> None:
    assert doctest.testmod(replay)[0] == 0
    answers = ["often"] * 60 + ["seldom"] * 30 + [f"once {i}" for i in range(10)]
    drawn = [answers[i] for i in replay._draw(answers, 0.3, random.Random(1))]
    assert len(drawn) == 30 and len(set(drawn)) == 12
    assert drawn.count("often") in (13, 14) and drawn.count("seldom") in (6, 7)


def test_without_replay_what_is_kept_is_still_measured(old: Run, new: Path, tmp_path: Path) -> None:
    run = go_on(old, new, tmp_path, "train.replay=0")
    assert places(run, "used:replay") == set() and len(places(run, "dropped:not_replayed")) == 27
    assert run.manifest["rows"]["train"] == len(places(run, "used:train"))
    found = run.manifest["retention"]["old"]
    assert found["rows"] == 3 and found["before"] == pytest.approx(old.metrics)
    assert found["before"].keys() == found["after"].keys() and found["before"]["loss"] != found["after"]["loss"]


def test_a_new_answer_replaces_the_old_one(old: Run, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder_of(old) / "old.jsonl").read_text().splitlines()]
    turned = [{"text": row["text"].upper(), "label": {"good": "bad", "bad": "good"}[row["label"]]} for row in rows[:10]]
    run = go_on(old, write(tmp_path / "new.jsonl", turned), tmp_path, "train.replay=1")
    replaced = {f"old.jsonl:{i}" for i in range(1, 11)}
    assert places(run, "used:replay") == places(old, "used:train") - replaced
    assert places(run, "dropped:superseded") == replaced
    assert not places(run, "used:kept") & replaced


def test_the_same_file_again_is_more_training(old: Run, tmp_path: Path) -> None:
    run = go_on(old, folder_of(old) / "old.jsonl", tmp_path, "train.replay=1")
    ledger = json.loads((run.path / "ledger.json").read_text())
    assert places(run, "used:train") == places(old, "used:train") and not places(run, "used:replay")
    assert ledger["splits"] == {"train": 27, "validation": 3, "kept": 3}


def test_a_chain_replays_the_rows_of_every_run_in_it(old: Run, new: Path, tmp_path: Path) -> None:
    second = go_on(old, new, tmp_path, "train.replay=0", "run.name=second")
    rows = [{"text": f"third {i}", "label": ("good", "bad")[i % 2]} for i in range(8)]
    newest = write(tmp_path / "newest.jsonl", rows)
    third = go_on(second, newest, tmp_path, "train.replay=1", "run.name=third")
    assert places(third, "used:replay") == places(old, "used:train") | places(second, "used:train")
    assert places(third, "used:kept") == places(old, "used:validation") | places(second, "used:validation")
    shutil.rmtree(second.path)
    with pytest.raises(ModelError, match="no such run"):
        go_on(second.path, newest, tmp_path)


def test_augmented_copies_stay_behind_the_replayed_rows(old: Run, new: Path, tmp_path: Path) -> None:
    run = go_on(old, new, tmp_path, "data.augment=[{name: insert_space, copies: 1}]", "train.replay=1")
    assert run.manifest["augmented"] == len(places(run, "used:train"))
    assert run.manifest["rows"]["train"] == len(places(run, "used:train")) + 27


def test_changed_or_missing_files_of_the_parent(old: Run, new: Path, tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(12))
    parent = train(tmp_path, tiny_bert, data, method="bitfit", train__max_steps=1, run__name="p")
    write(data, labelled(13))
    with pytest.raises(DataError, match="the file has changed since p was trained") as caught:
        go_on(parent, new, tmp_path)
    assert caught.value.where == str(data) and "train.replay=0" in caught.value.hint
    data.unlink()
    with pytest.raises(DataError, match=r"cannot be replayed.*no such file"):
        go_on(parent, new, tmp_path)
    run = go_on(parent, new, tmp_path, "train.replay=0")
    found = run.manifest["retention"]
    assert found["old"] is None and "no such file" in found["problem"]
    assert "no such file" in (run.path / "log.txt").read_text()


# ---------------------------------------------------------------------------------------------- refusals


def test_labels_that_the_head_does_not_know(old: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "new.jsonl", [{"text": f"so {i}", "label": ("good", "neutral")[i % 2]} for i in range(8)])
    with pytest.raises(DataError, match=r"label 'neutral'.*old") as caught:
        go_on(old, data, tmp_path)
    assert caught.value.where.startswith(str(data)) and "train a new run" in caught.value.hint
    run = go_on(old, data, tmp_path, "data.on_bad_row=drop", "data.holdout=0.5")
    assert run.tuned.task.state() == old.tuned.task.state()
    several = write(tmp_path / "several.jsonl", [{"text": f"so {i}", "label": ["good", "bad"]} for i in range(8)])
    with pytest.raises(DataError, match="several labels in one row"):
        go_on(old, several, tmp_path)


def test_rows_of_one_label_alone_can_be_learnt(old: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "new.jsonl", [{"text": f"so {i}", "label": "bad"} for i in range(8)])
    run = go_on(old, data, tmp_path, "train.replay=0.5")
    assert run.tuned.task.state() == old.tuned.task.state()
    weighed = go_on(old, data, tmp_path, "train.replay=0.5", "train.class_weights=balanced")
    assert set(weighed.manifest["class_weights"]) == {"good", "bad"}


@pytest.mark.parametrize(
    ("override", "where"),
    [("method.r=3", "method.r"), ("method=bitfit", "method.name"), ("task=regress", "task.name"),
     ("task.pooling=cls", "task.pooling"), ("train.replay=1.5", "train.replay"), ("data.trian=x", "data.trian")],
)  # fmt: skip
def test_what_must_stay_the_same(old: Run, new: Path, tmp_path: Path, override: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        go_on(old, new, tmp_path, override)
    assert where in str(caught.value)


def test_another_base_and_runs_that_are_not_finished(
    old: Run, new: Path, tiny_distilbert: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is not the model that old was trained on"):
        go_on(old, new, tmp_path, f"model.name={tiny_distilbert}")
    broken = tmp_path / "broken"
    shutil.copytree(old.path, broken)
    Run(broken).dir.update_manifest(status="interrupted")
    with pytest.raises(ModelError, match="only a finished run can be continued"):
        go_on(broken, new, tmp_path)
    with pytest.raises(ConfigError, match="configuration of its parent"):
        tunery.train(new, continue_from=old, config="tunery.yaml")


# ------------------------------------------------------------------------------------------ command line


def test_the_verb(
    old: Run, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tunery.yaml").write_text("model: nothing\n")  # of another project: the parent's is taken
    assert verbs.call(capsys, "promote", old.path, "--as", "mood").code == 0
    args = ["train", "--continue", "mood", f"data.train={new}", "train.max_steps=2", "train.replay=20%"]
    answer = verbs.call(capsys, *args, "--json")
    assert answer.code == 2
    args[-1] = "train.replay=0.2"
    answer = verbs.call(capsys, *args, "--json")
    assert answer.code == 0, answer.err
    assert answer.value["parent"]["path"] == str(old.path) and answer.value["retention"]["replayed"] == 5
    assert Path(answer.value["run"]).parent.name == "runs"
    told = verbs.call(capsys, *args)
    assert "on the old validation rows (3), before and after this run" in told.out
    assert "5 of 27 old training rows were replayed" in told.out
    assert verbs.call(capsys, *args, "tunery.yaml", "--json").code == 2
    missing = verbs.call(capsys, "train", "--continue", "mood", "--json")
    assert missing.code == 2 and missing.error["where"] == "data.train"
    assert verbs.call(capsys, "train", "--continue", "nothing", f"data.train={new}", "--json").code == 6


@pytest.mark.report
def test_the_report_shows_old_and_new_knowledge(old: Run, new: Path, tmp_path: Path) -> None:
    run = go_on(old, new, tmp_path, "run.report=true")
    page = (run.path / "report.md").read_text(encoding="utf-8")
    assert "Old and new knowledge" in page and "goes on from old" in page and "old validation rows (3)" in page


def test_replay_of_a_text_task(tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "old.jsonl", questions(20))
    parent = train(tmp_path, tiny_llama, data, method="lora", train__max_steps=3, run__name="old")
    extra = write(tmp_path / "new.jsonl", [{"question": f"new {i}?", "answer": f"it is {i}"} for i in range(8)])
    run = go_on(parent, extra, tmp_path)
    assert run.manifest["retention"]["replayed"] == round(0.6 * len(places(parent, "used:train")))
    assert (run.path / "eval" / replay.KEPT / "results.json").is_file()
    assert run.evaluate(extra)["rows"] == 8
