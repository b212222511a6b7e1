"""The configuration: strict, all problems at once, overrides, round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tunery import config, registry
from tunery.config import yaml12
from tunery.errors import ConfigError

PLUGINS = [(kind, name) for kind in ("task", "method") for name in registry.names(kind)]  # type: ignore[arg-type]


def wrong(*overrides: str, **values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(None, overrides, values)
    return caught.value


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    found = config.load()
    assert (found.model.name, found.method_name, found.task_name) == ("smollm2", "lora", None)
    assert found.train.lr is None and found.data.holdout == 0.1


@pytest.mark.parametrize(
    ("override", "where", "meant"),
    [
        ("model.nam=x", "model.nam", "model.name"),
        ("data.trian=x", "data.trian", "data.train"),
        ("train.learning_rate=1", "train.learning_rate", "train.lr"),
        ("train.per_device_train_batch_size=1", "train.per_device_train_batch_size", "train.batch_size"),
        ("eval.evry=1", "eval.evry", "eval.every"),
        ("run.dirr=x", "run.dirr", "run.dir"),
        ("data.lr=1", "data.lr", "train.lr"),
        ("method.rank=4", "method.rank", "method.r"),
        ("tran.lr=1", "tran", "train"),
        ("tasks=classify", "tasks", "task"),
        ("lr=1e-4", "lr", "train.lr"),
        ("epochs=3", "epochs", "train.epochs"),
    ],
)
def test_unknown_key_names_the_one_that_was_meant(override: str, where: str, meant: str) -> None:
    error = wrong(override)
    assert error.where == where and "unknown key" in error.problem and error.hint == f"did you mean {meant!r}?"


@pytest.mark.parametrize("section", [*config.SECTIONS, "method"])
def test_unlike_anything_lists_what_there_is(section: str) -> None:
    error = wrong(f"{section}.zzqqx=1")
    assert error.hint.startswith("known: ") and error.code == 2


def test_key_of_another_method_or_task() -> None:
    error = wrong("method=full", "method.r=4")
    assert error.where == "method.r" and error.hint == "it is a key of method=lora"
    assert wrong("task=classify", "task.template=x").hint == "it is a key of task=cloze and task=instruct"
    assert wrong("task.template=x").where == "task.name"


def test_unknown_names() -> None:
    assert wrong("method=lorra").hint == "did you mean 'lora'?"
    assert wrong("task=clasify").where == "task.name"
    assert wrong("method=null").where == "method.name"
    assert wrong(method=["a"]).where == "method.name"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=abc", "a number or null is needed, not 'abc'"),
        ("train.lr=-1", "must be greater than 0, not -1"),
        ("train.lr=nan", "a number or null is needed"),
        ("train.epochs=true", "a number is needed, not true"),
        ("train.seed=1.5", "a whole number is needed"),
        ("train.epochs=0", "must be greater than 0"),
        ("method.r=0", "must be greater than or equal to 1, not 0"),
        ("method.r=x", "a whole number is needed, not 'x'"),
        ("eval.every=0", "must be greater than or equal to 1"),
        ("eval.every=foo", "a whole number or epoch is needed"),
        ("data.columns=x", "a mapping {name: value} is needed"),
        ("data.labels=a", "a list of texts or a mapping {name: value} or null is needed"),
        ("model.dtype=fp16", "one of auto, float32, bfloat16 is needed"),
        ("train.trackers=tensorboard", "a list of tensorboard, wandb, mlflow, trackio is needed"),
        ("train.lr.x=3", "a number or null is needed"),
        ("train=5", "a section with keys of its own is needed, not 5"),
        ("schema_version=2", "a file of version 2"),
    ],
)
def test_wrong_value(override: str, words: str) -> None:
    error = wrong(override)
    assert error.problem.startswith(words), error
    assert error.where == override.partition("=")[0].removesuffix(".x")
    assert str(error).count(error.where) == 1


def test_choices_name_the_nearest() -> None:
    assert wrong("train.schedule=cosin").hint == "did you mean 'cosine'?"
    assert wrong("train.trackers=tensorboard").hint == "write [tensorboard]"


def test_all_problems_at_once() -> None:
    text = str(wrong("train.foo=1", "data.trian=2", "method.r=0", "model.dtype=x", "zzz=3"))
    for where in ("train.foo", "data.trian", "method.r", "model.dtype", "zzz"):
        assert text.count(f"{where}:") == 1, text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        (".5", 0.5),
        ("[a, b]", ["a", "b"]),
        ("null", None),
        ("", None),
        ("true", True),
        ("yes", "yes"),
        ("010", "010"),
        ("'1'", "1"),
        ("{a: 1}", {"a": 1}),
        ("Be brief: yes #1", "Be brief: yes #1"),
        ("{{ messages }}", "{{ messages }}"),
        ("- be brief", "- be brief"),
        ("你好", "你好"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_override_values(text: str, value: Any) -> None:
    assert config.parse_scalar(text) == value


def test_overrides() -> None:
    found = config.load(
        None,
        [
            *("model=minilm", "task=classify", "method=full", "train.lr=1e-4", "train.patience=null"),
            *("data.train=[a.csv, b.csv]", "data.columns.text=review", "data.columns.label=stars", "run.name=2024"),
        ],
    )
    assert (found.model.name, found.task_name, found.method_name) == ("minilm", "classify", "full")
    assert found.train.lr == 1e-4 and found.train.patience is None
    assert found.data.train == ["a.csv", "b.csv"] and found.data.columns == {"text": "review", "label": "stars"}
    assert found.run.name == "2024"
    for text in ("train.lr", "=3"):
        assert "is not an override" in wrong(text).problem


def test_labels_are_text_as_in_the_files(tmp_path: Path) -> None:
    path = written(tmp_path, "data:\n  labels: [yes, no, 0, true, 010]\n")
    assert config.load(path).data.labels == ["yes", "no", "0", "true", "010"]


def test_another_method_drops_the_keys_of_the_old_one(tmp_path: Path) -> None:
    path = written(tmp_path, "method: {name: lora, r: 16}\ntask: {name: classify, pooling: cls}\n")
    assert config.load(path).method.model_dump()["r"] == 16
    assert config.load(path, ["method=full"]).method.model_dump() == {"name": "full"}
    assert config.load(path, ["method=lora"]).method.model_dump()["r"] == 16
    assert config.load(path, ["task=instruct"]).task_name == "instruct"
    unnamed = written(tmp_path, "method: {r: 16}\n")
    assert config.load(unnamed).method.model_dump()["r"] == 16
    assert config.load(unnamed, ["method=full"]).method_name == "full"


def test_order_of_overrides_does_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "method: full\n")
    for overrides in (["method.r=4", "method=lora"], ["method=lora", "method.r=4"]):
        assert config.load(path, overrides).method.model_dump()["r"] == 4
    assert config.load(path, values={"method": {"r": 4, "name": "lora"}}).method.model_dump()["r"] == 4


def test_bare_names_and_empty_sections_in_a_file(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, "model: minilm\ntask: classify\nmethod: full\ntrain:\n"))
    assert (found.model.name, found.task_name, found.method_name, found.train.epochs) == (
        "minilm",
        "classify",
        "full",
        3,
    )
    assert config.load(written(tmp_path, "")).method_name == "lora"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [\n", 2, "cannot be read as YAML"),
        ("model: a\nmodel: b\n", 2, "'model' stands twice"),
        ("data:\n  train: a\n  train: b\n", 3, "'train' stands twice"),
        ("run: !!python/object:os.system x\n", 1, "cannot be read as YAML"),
        ("- a\n", None, "mapping of sections"),
        ("just text\n", None, "mapping of sections"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert words in caught.value.problem and caught.value.where == (f"{path}:{line}" if line else str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gbk.yaml").write_bytes("data: {train: 数据}".encode("gbk"))
    for name, words in (("none.yaml", "no such"), (".", "cannot be read"), ("gbk.yaml", "not UTF-8")):
        with pytest.raises(ConfigError, match=words):
            config.load(tmp_path / name)


def test_round_trip() -> None:
    names = ["yes", "no", "1e5", "010", "null", "a: b", "#x", "", " x", "12:30", "2024-01-01", "你好", "two\nlines"]
    found = config.load(
        None, ["task=classify", "train.lr=1e-05", "train.patience=null"], {"data": {"labels": names, "train": names}}
    )
    text = config.dump(found)
    assert config.build(yaml12.load(text)) == found
    assert config.build(yaml.safe_load(text)) == found
    for name in names:
        assert yaml12.load(yaml12.scalar(name)) == name


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_plugin_describes_its_keys(kind: Any, name: str) -> None:
    known = registry.config_class(kind, name)
    assert known().model_dump()["name"] == name, "every key has a default, and the name its own"
    for key, field in known.model_fields.items():
        assert key == "name" or (field.description and field.description[0] != " "), f"{kind}.{key} of {name}"
    found = config.build({kind: {"name": name}})
    assert getattr(found, f"{kind}_name") == name
    assert config.build(yaml12.load(config.dump(found))) == found


@pytest.mark.parametrize("section", config.SECTIONS)
def test_every_key_has_help(section: str) -> None:
    for key, field in config.SECTIONS[section].model_fields.items():
        assert field.description, f"{section}.{key}"
