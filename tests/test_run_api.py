"""The Python API: train, look at the numbers, predict, and what lies in the run directory afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers.utils import chat_template_utils

import tunery
from small import ROWS, digests, labelled, log, one_thread, questions, several, train, write  # noqa: F401
from tunery import config as configuration
from tunery import registry
from tunery.config import Config
from tunery.data.read import read
from tunery.data.templates import TEMPLATES
from tunery.errors import ConfigError, DataError, ModelError
from tunery.protocols import Message
from tunery.run.manifest import absolute
from tunery.run.run import Run
from tunery.rundir import RunDir

TASKS = registry.names("task")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, folder: Path) -> Run:
    data = write(folder / "train.jsonl", labelled(24))
    test = write(folder / "test.jsonl", labelled(10, seed=1))
    return train(
        folder / "runs", tiny_bert, data, data__test=str(test), data__validation=str(data), method="full",
        train__lr=4e-3, train__max_steps=40, train__dropout=0.0, train__patience=None, eval__every=20,
        run__name="classifier",
    )  # fmt: skip


@pytest.fixture(scope="module")
def answerer(tiny_llama: Path, folder: Path) -> Run:
    data = write(folder / "asked.jsonl", questions(12))
    return train(
        folder / "runs", tiny_llama, data, method="lora", train__max_steps=10, train__lr=1e-2, run__name="answerer",
        eval__generate_rows=5,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- numbers


def test_every_run_ends_with_the_bases_numbers_beside_its_own(classifier: Run, answerer: Run) -> None:
    for run in (classifier, answerer):
        summary = run.summary()
        assert summary["base"].keys() == summary["metrics"].keys()
        assert summary["base"] != summary["metrics"]
        assert summary["status"] == "completed"
        assert {"steps", "seconds", "tokens_per_second", "peak_memory_bytes", "trainable_parameters"} <= summary.keys()
        assert summary["trainable_parameters"] > 0
        assert summary["peak_memory_bytes"] > 10**7
    assert classifier.summary()["test_metrics"].keys() == classifier.summary()["base_test"].keys()
    assert set(classifier.metrics) >= {"accuracy", "f1_weighted", "f1_macro", "precision_macro", "recall_macro", "loss"}
    assert set(answerer.metrics) >= {"loss", "perplexity", "rouge1", "rouge2", "rougeL", "bleu", "exact_match"}


def test_evaluate_reads_the_test_rows_by_default(classifier: Run) -> None:
    found = classifier.evaluate()
    assert found["rows"] == 10
    assert found["metrics"] == pytest.approx(classifier.manifest["test_metrics"])
    confusion = found["confusion"]
    assert confusion["labels"] == ["bad", "good"]
    assert [sum(row) for row in confusion["counts"]] == [5, 5]
    right = sum(confusion["counts"][i][i] for i in range(2))
    assert right / 10 == found["metrics"]["accuracy"]


def test_evaluate_on_a_new_file(classifier: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", labelled(7, seed=2))
    found = classifier.evaluate(new, metrics=["accuracy", "loss"])
    assert set(found["metrics"]) == {"accuracy", "loss"}
    results = json.loads((classifier.path / "eval/new/results.json").read_text())
    assert results["metrics"] == found["metrics"]
    lines = [json.loads(line) for line in (classifier.path / "eval/new/predictions.jsonl").read_text().splitlines()]
    assert [line["reference"] for line in lines] == [row["label"] for row in labelled(7, seed=2)]
    assert [line["where"] for line in lines] == [f"{new}:{i}" for i in range(1, 8)]
    share = sum(line["prediction"] == line["reference"] for line in lines) / 7
    assert found["metrics"]["accuracy"] == pytest.approx(share)
    with pytest.raises(ConfigError, match="does not fit"):
        classifier.evaluate(new, metrics=["rougeL"])


def test_evaluate_refuses_a_label_that_was_never_learnt(classifier: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", [*labelled(2), {"text": "x", "label": "ugly"}])
    with pytest.raises(DataError, match="'ugly'") as caught:
        classifier.evaluate(new)
    assert caught.value.where == f"{new}:3"


def test_evaluating_twice_gives_the_same(answerer: Run, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", questions(5, seed=3))
    assert answerer.evaluate(new) == answerer.evaluate(new)
    assert answerer.evaluate(new)["rows"] == 5
    assert len((answerer.path / "eval/new/predictions.jsonl").read_text().splitlines()) == 5


# ------------------------------------------------------------------------------------------ predictions


def test_probabilities_sum_to_one(classifier: Run) -> None:
    for prediction in classifier.predict([row["text"] for row in labelled(10, seed=1)]):
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert set(prediction.probabilities) == {"good", "bad"}
        assert prediction.value == max(prediction.probabilities, key=prediction.probabilities.get)


def test_predictions_come_in_the_order_of_the_inputs(classifier: Run) -> None:
    """Batches are sorted by length inside; nobody must see it."""
    texts = [row["text"] for row in labelled(40, seed=5)]
    together = classifier.predict(texts)
    for text, prediction in zip(texts, together, strict=True):
        (alone,) = classifier.predict([text])
        assert alone.value == prediction.value
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-5)
    assert [p.value for p in classifier.predict(texts[::-1])] == [p.value for p in together][::-1]
    assert len({p.value for p in together}) == 2


def test_predict_takes_a_text_texts_or_rows(classifier: Run, answerer: Run) -> None:
    assert classifier.predict("wonderful") == classifier.predict(["wonderful"])
    assert classifier.predict([{"text": "wonderful"}]) == classifier.predict(["wonderful"])
    assert classifier.predict([]) == []
    assert answerer.predict([{"question": "order 3?"}]) == answerer.predict(["order 3?"])
    with pytest.raises(DataError, match="a text or a row"):
        classifier.predict([3])  # type: ignore[list-item]


def test_predict_a_file(classifier: Run, answerer: Run, tmp_path: Path) -> None:
    unlabelled = write(tmp_path / "new.jsonl", [{"text": row["text"]} for row in labelled(6)])
    records = classifier.predict_file(str(unlabelled))
    assert [record["where"] for record in records] == [f"{unlabelled}:{i}" for i in range(1, 7)]
    assert [record["input"] for record in records] == [row["text"] for row in labelled(6)]
    assert all("reference" not in record for record in records)
    asked = write(tmp_path / "asked.jsonl", [{"question": row["question"]} for row in questions(3)])
    assert [record["input"] for record in answerer.predict_file(str(asked))] == [r["question"] for r in questions(3)]


def test_several_labels_have_probabilities_of_their_own(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", several(16))
    run = train(tmp_path, tiny_bert, data, train__max_steps=2)
    (prediction,) = run.predict(["great"])
    assert all(0 < p < 1 for p in prediction.probabilities.values())
    assert set(prediction.value) == {label for label, p in prediction.probabilities.items() if p >= 0.5}


def test_generate_answers_a_conversation(answerer: Run) -> None:
    pieces: list[str] = []
    text = answerer.generate("order 3?", on_text=pieces.append)
    assert "".join(pieces).strip() == text == answerer.predict(["order 3?"])[0].value
    talk = [Message("user", "order 3?"), Message("assistant", text or "x"), Message("user", "and 4?")]
    assert isinstance(answerer.generate(talk), str)


def test_a_classifier_does_not_generate(classifier: Run) -> None:
    with pytest.raises(ConfigError, match="does not generate") as caught:
        classifier.generate("hello")
    assert caught.value.hint == "use predict"


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_run_predicts_what_the_trained_one_did(task: str, tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", ROWS[task](12))
    try:
        run = train(tmp_path, tiny_llama, data, task=task, train__max_steps=2)
    except ModelError as error:
        pytest.skip(str(error))
    rows = [row.values for row in read(str(data))][:3]
    assert len(run.predict(rows)) == 3
    assert tunery.load(run.path).predict(rows) == run.predict(rows)
    found = tunery.load(run.path).evaluate(data, name="again")
    assert found["rows"] == 12


# ---------------------------------------------------------------------------------------- the directory


def test_the_run_directory_is_as_designed(classifier: Run, answerer: Run) -> None:
    for run in (classifier, answerer):
        names = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
        assert names == {
            "config.yaml", "manifest.json", "ledger.json", "metrics.jsonl", "log.txt", "checkpoints", "model", "eval",
        }  # fmt: skip
        manifest = run.manifest
        for key in (
            "schema_version", "status", "argv", "versions", "commit", "device", "threads", "seed", "base", "data",
            "parameters", "started", "finished", "seconds", "peak_memory_bytes", "supervised_tokens", "probe",
        ):  # fmt: skip
            assert key in manifest, key
        config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        assert config["schema_version"] == manifest["schema_version"] == 1
        assert config["train"]["lr"] is not None, "every default is resolved"
        assert config["data"]["format"] in ("labels", "qa")
        assert config["data"]["max_length"]
        assert config["task"]["name"] in ("classify", "instruct")
        assert Path(config["data"]["train"]).is_absolute()
        assert len(manifest["base"]["hash"]) == 64
        assert {len(value) for value in manifest["data"].values()} == {64}
        ledger = json.loads((run.path / "ledger.json").read_text(encoding="utf-8"))
        assert ledger["used"] + sum(ledger["dropped"].values()) == ledger["rows_read"]
        assert ledger["splits"]["train"] == manifest["rows"]["train"]
        for checkpoint in (run.path / "checkpoints").glob("step-*"):
            sums = json.loads((checkpoint / "manifest.json").read_text())["sha256"]
            assert sums.keys() == {path.name for path in checkpoint.iterdir()} - {"manifest.json"}
        assert (run.path / "model/tokenizer.json").exists()
        assert (run.path / "eval/validation/results.json").exists()
        assert (run.path / "eval/validation-base/results.json").exists()
    assert (answerer.path / "model/adapter_config.json").exists()
    assert json.loads((answerer.path / "model/task.json").read_text())["state"]["template"]
    assert json.loads((classifier.path / "model/task.json").read_text())["state"]["labels"] == ["bad", "good"]


def test_the_template_of_training_is_the_tokenizers(tiny_gpt2: Path, tiny_llama: Path, tmp_path: Path) -> None:
    """Programs that know nothing of tunery take the chat template from the tokenizer."""
    from transformers import AutoTokenizer

    data = write(tmp_path / "a.jsonl", questions(10))
    for model, template in ((tiny_gpt2, "model"), (tiny_llama, "zh_instruct")):
        run = train(tmp_path, model, data, train__max_steps=1, task={"name": "instruct", "template": template})
        saved = AutoTokenizer.from_pretrained(run.path / "model").chat_template
        assert saved == TEMPLATES["human_assistant" if template == "model" else template]


def test_nothing_is_pickled(classifier: Run, answerer: Run) -> None:
    for run in (classifier, answerer):
        for path in run.path.rglob("*"):
            if not path.is_file() or path.name == ".lock":
                continue
            assert path.suffix in (".safetensors", ".json", ".jsonl", ".yaml", ".txt", ".jinja"), path
            if path.suffix == ".safetensors":
                assert path.read_bytes()[8:9] == b"{", path
            else:
                path.read_text(encoding="utf-8")


def test_metrics_are_logged_step_by_step(classifier: Run) -> None:
    records = log(classifier)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 41))
    assert all({"loss", "lr", "grad_norm", "tokens_per_second", "epoch"} <= r.keys() for r in records if "loss" in r)
    assert records[-1]["validation"]["accuracy"] <= 1


def test_runs_are_never_overwritten(classifier: Run, tiny_bert: Path, folder: Path) -> None:
    before = digests(classifier.path)
    second = train(folder / "runs", tiny_bert, folder / "train.jsonl", train__max_steps=1, run__name="classifier")
    assert second.path == classifier.path.with_name("classifier-2")
    assert digests(classifier.path) == before


def test_names_are_readable_and_unique(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    paths = {train(tmp_path / "runs", tiny_bert, data, train__max_steps=1).path for _ in range(3)}
    assert len(paths) == 3
    for path in paths:
        assert path.parent == tmp_path / "runs"
        assert "bert-classify-lora" in path.name


def test_a_run_that_is_training_is_locked(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "locked")
    with run.lock():
        code = "import sys; from pathlib import Path; from tunery.rundir import RunDir\n"
        code += "with RunDir(Path(sys.argv[1])).lock(): pass"
        done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
        assert "another process is training this run" in done.stderr
        with pytest.raises(ModelError, match="another process"), run.lock():
            pass
    with run.lock():
        pass


def test_what_is_not_a_finished_run_is_not_loaded(
    tiny_bert: Path, tmp_path: Path, classifier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunery.train.loop import Trainer

    with pytest.raises(ModelError, match="no such run"):
        tunery.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not a run directory"):
        tunery.load(tmp_path / "empty")

    def dying(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(SystemExit):
        train(tmp_path, tiny_bert, write(tmp_path / "a.jsonl", labelled(20)), run__name="half")
    with pytest.raises(ModelError, match="this run is running") as caught:
        tunery.load(tmp_path / "half").predict("x")
    assert "tunery resume" in caught.value.hint


def test_other_token_ids_than_at_training_are_noticed(tiny_bert: Path, tmp_path: Path) -> None:
    """The probe in the manifest: a tokenizer that changed would silently give nonsense."""
    import shutil

    model = shutil.copytree(tiny_bert, tmp_path / "model")
    run = train(tmp_path, model, write(tmp_path / "a.jsonl", labelled(20)), train__max_steps=1)
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    letters = [word for word in words if len(word) == 1 and word.isalpha()]
    swapped = dict(zip(letters, letters[1:] + letters[:1], strict=True))
    tokenizer["model"]["vocab"] = {swapped.get(word, word): number for word, number in words.items()}
    rest = {word: f"##{swapped[word[2:]]}" for word in words if word.startswith("##") and word[2:] in swapped}
    tokenizer["model"]["vocab"] = {rest.get(w, w): n for w, n in tokenizer["model"]["vocab"].items()}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ModelError, match="other token ids"):
        tunery.load(run.path).predict("great")


def test_a_run_whose_template_asks_for_the_date_loads_on_another_day(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(day: int) -> None:
        monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: datetime(2030, 1, day)))

    on(1)
    template = "{{ strftime_now('%d %b %Y') }}\n" + TEMPLATES["chatml"]
    data = write(tmp_path / "a.jsonl", questions(10))
    run = train(tmp_path, tiny_llama, data, train__max_steps=1, task={"name": "instruct", "template": template})
    said = run.predict(["order 3?"])
    on(2)
    assert tunery.load(run.path).predict(["order 3?"]) == said


def test_importing_tunery_is_quick_to_use(tmp_path: Path) -> None:
    """``tunery.train`` is the function whatever was imported before; ``import tunery`` loads no torch."""
    code = (
        "import sys, tunery\n"
        "assert 'torch' not in sys.modules\n"
        "import tunery.train.optim\n"
        "assert callable(tunery.train) and callable(tunery.load)\n"
        "from tunery import train, load, Run\n"
        "assert callable(train)\n"
        "from tunery.train.optim import lr_factor\n"
        "assert tunery.train is train\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_settings_of_the_api(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    first = tunery.train(
        data, model=str(tiny_bert), method={"name": "lora", "r": 2}, train={"max_steps": 1, "lr": 1e-3},
        overrides=["train.seed=7"], run={"dir": str(tmp_path / "runs")},
    )  # fmt: skip
    assert (first.config.method.r, first.config.train.seed, first.config.train.lr) == (2, 7, 1e-3)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"train\.lrr: unknown key"):
        tunery.train(data, model=str(tiny_bert), train={"lrr": 1})
    with pytest.raises(tunery.TuneryError, match="no training data"):
        tunery.train(model=str(tiny_bert))


@pytest.mark.parametrize("task", [{}, {"task": "classify"}])
def test_metrics_of_several_labels_are_known_by_the_rows(task: dict[str, str], tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", several(16))
    run = train(tmp_path, tiny_bert, data, eval__metrics=["f1_micro"], train__max_steps=1, **task)
    assert "f1_micro" in run.metrics


@pytest.mark.parametrize("task", [{}, {"task": "classify"}])
def test_a_metric_that_does_not_fit_the_rows_is_refused_first(
    task: dict[str, str], tiny_bert: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.jsonl", several(16))
    with pytest.raises(ConfigError, match="'accuracy' does not fit") as caught:
        train(tmp_path / "runs", tiny_bert, data, eval__metrics=["accuracy"], train__max_steps=1, **task)
    assert caught.value.where == "eval.metrics"
    assert not (tmp_path / "runs").exists()


def test_places_are_recorded_absolutely_and_names_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("minilm", "model", "runs"):
        Path(name).mkdir()
    write(Path("a.jsonl"), labelled(4))

    def recorded(model: str) -> Config:
        return absolute(configuration.load(None, [f"model={model}", "data.train=a.jsonl", "run.dir=runs"]))

    found = recorded("model")
    assert found.model.name == str(tmp_path / "model")
    assert (found.data.train, found.run.dir) == (str(tmp_path / "a.jsonl"), str(tmp_path / "runs"))
    for name in ("minilm", "org/name"):
        assert recorded(name).model.name == name


@pytest.mark.parametrize(
    ("policy", "words", "truncated", "dropped"),
    [
        ("drop", "left out, too long for 120 tokens (the ledger names them)", 0, {"too_long": 3}),
        ("truncate", "cut to 120 tokens (data.on_long)", 3, {}),
    ],
    ids=["drop", "truncate"],
)
def test_what_became_of_long_rows_is_told(
    policy: str, words: str, truncated: int, dropped: dict[str, int], tiny_bert: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def rows(word: str, count: int) -> Path:
        long = [{"text": f"{word} {i} " * 60, "label": "good"} for i in range(3)]
        return write(tmp_path / f"{word}.jsonl", [*labelled(count, seed=count), *long])

    data, new = rows("parcel", 20), rows("order", 6)
    run = train(
        tmp_path, tiny_bert, data, data__validation=str(new), data__max_length=120, data__on_long=policy,
        train__max_steps=1,
    )  # fmt: skip
    told = (run.path / "log.txt").read_text(encoding="utf-8")
    assert f"train: 3 of 23 rows {words}" in told
    assert f"validation: 3 of 9 rows {words}" in told
    with caplog.at_level("INFO", "tunery"):
        found = run.evaluate(new)
    assert f"evaluation: 3 of 9 rows {words}" in caplog.text
    assert (found["rows"], found["truncated"], found["dropped"]) == (9 - dropped.get("too_long", 0), truncated, dropped)


def test_answers_of_which_nothing_is_left_are_told(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [*questions(20, longest=4), {"question": "parcel " * 60, "answer": "fine"}]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(tmp_path, tiny_llama, data, data__validation=str(data), data__max_length=60, train__max_steps=1)
    told = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "train: 1 of 21 rows left out, too long for 60 tokens" in told
    assert run.evaluate(data)["dropped"] == {"too_long": 1}


def test_time_is_measured(classifier: Run) -> None:
    manifest = classifier.manifest
    assert 0 < manifest["seconds"] < 600
    assert manifest["tokens_per_second"] == pytest.approx(manifest["tokens"] / manifest["seconds"], rel=0.01)
    assert manifest["started"] <= manifest["finished"] <= time.strftime("%Y-%m-%dT%H:%M:%S+99", time.gmtime())


def test_unknown_things_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    data: Any = write(tmp_path / "a.jsonl", labelled(20))
    with pytest.raises(ConfigError, match="unknown method 'lorra'") as caught:
        train(tmp_path, tiny_bert, data, method="lorra")
    assert "lora" in caught.value.hint
    with pytest.raises(ConfigError, match="acuracy"):
        train(tmp_path, tiny_bert, data, eval__metrics=["acuracy"])
    assert not list(tmp_path.glob("*/manifest.json"))
