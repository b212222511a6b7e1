"""From the configuration to splits: decisions are told, every row is accounted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunery.config import DataConfig
from tunery.data.read import BadRow
from tunery.errors import ConfigError, DataError, TuneryError
from tunery.run.dataset import load_dataset, load_examples, refuse_bad

EXAMPLES = Path(__file__).parents[1] / "examples"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes rows (objects, or strings as they are) to a JSONL file of the working directory."""
    monkeypatch.chdir(tmp_path)

    def save(name: str, *rows: object) -> str:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    return save


def labelled(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(start, start + count)]


def test_sniffs_holds_out_and_tells(write: Write) -> None:
    file = write("a.jsonl", *labelled(20))
    found = load_dataset(DataConfig(train=file), None, 42)
    assert (found.format, found.task) == ("labels", "classify")
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 18, "validation": 2}
    assert found.ledger.counts() == {"used:train": 18, "used:validation": 2}
    assert any("format labels" in note for note in found.notes)
    assert any("2 of 20 training rows held out" in note for note in found.notes)
    assert found.hashes == {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()}
    for split, rows in found.splits.items():
        assert all(found.ledger.bucket(row.where) == f"used:{split}" for row in rows)
    again = load_dataset(DataConfig(train=file), None, 42)
    assert {k: list(v) for k, v in again.splits.items()} == {k: list(v) for k, v in found.splits.items()}
    assert load_dataset(DataConfig(train=file), None, 43).splits != found.splits


def test_given_splits_are_kept(write: Write) -> None:
    data = DataConfig(
        train=[write("a.jsonl", *labelled(4)), write("b.jsonl", *labelled(4, 4))],
        validation=write("v.jsonl", *labelled(3, 10)),
        test=write("t.jsonl", *labelled(2, 20)),
    )
    found = load_dataset(data, "classify", 1)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 8, "validation": 3, "test": 2}
    assert [row.where for row in found.splits["train"]][3:5] == ["a.jsonl:4", "b.jsonl:1"]
    assert set(found.hashes) == {"a.jsonl", "b.jsonl", "v.jsonl", "t.jsonl"}
    only = load_dataset(data, "classify", 1, splits=("test",))
    assert list(only.splits) == ["test"]


def test_the_same_file_for_training_and_testing(write: Write) -> None:
    file = write("a.jsonl", *labelled(10))
    found = load_dataset(DataConfig(train=file, validation=file, test=file), None, 1)
    assert found.ledger.counts() == {"used:test": 10, "used:train": 10, "used:validation": 10}


def test_guessed_columns_are_told_and_kept(write: Write) -> None:
    train = write("a.jsonl", *[{"review": f"r{i}", "stars": i % 5} for i in range(20)])
    test = write("t.jsonl", {"text": "x", "stars": 1})
    found = load_dataset(DataConfig(train=train, test=test), None, 1)
    assert found.columns == {"text": "review", "label": "stars"}
    assert any("'stars' is read as label" in note for note in found.notes)
    assert found.splits["train"][0].label in "01234"
    assert found.splits["test"][0].text == "x"
    again = DataConfig(train=train, columns=found.columns, format=found.format)
    assert list(load_dataset(again, None, 1).splits["train"]) == list(found.splits["train"])


def test_files_beside_the_training_file_may_call_their_columns_differently(write: Write) -> None:
    train = write("a.jsonl", *[{"review": f"r{i}", "stars": i % 5} for i in range(20)])
    validation = write("v.jsonl", {"sentence": "x", "label": 1})
    found = load_dataset(DataConfig(train=train, validation=validation), None, 1)
    again = DataConfig(train=train, validation=validation, columns=found.columns, format=found.format)
    assert again.columns == {"text": "review", "label": "stars"}
    loaded = load_dataset(again, None, 1).splits
    assert {name: list(rows) for name, rows in loaded.items()} == {n: list(rows) for n, rows in found.splits.items()}
    examples, bad, _, _ = load_examples(validation, again, need_target=True)
    assert [(example.text, example.label) for example in examples] == [("x", "1")]
    assert not bad
    with pytest.raises(DataError, match="'review', which is not in the file"):
        load_dataset(again.model_copy(update={"train": validation, "validation": train}), None, 1)


def test_a_mapping_replaces_a_column_of_that_name(write: Write) -> None:
    file = write("a.jsonl", *[{"text": "long", "summary": f"s{i}", "label": "ab"[i % 2]} for i in range(9)])
    found = load_dataset(DataConfig(train=file, columns={"text": "summary"}), None, 1)
    assert {row.text for rows in found.splits.values() for row in rows} == {f"s{i}" for i in range(9)}


def test_bad_rows_are_one_error(write: Write) -> None:
    good = labelled(30)
    wrong = [{"text": f"t{i}", "label": None} for i in range(12)]
    train = write("a.jsonl", *good, "nope", *wrong)
    test = write("t.jsonl", {"text": 3.5, "label": "a"}, {"text": "x", "label": "a"})
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(train=train, test=test), None, 1)
    error = caught.value
    assert error.where == "a.jsonl:31"
    assert error.problem.startswith("14 of 45 rows cannot be used: a.jsonl:31: not JSON")
    assert "a.jsonl:40" in error.problem
    assert "a.jsonl:41" not in error.problem
    assert "4 more" in error.problem
    assert "data.on_bad_row=drop" in error.hint
    assert "\n" not in str(error)


def test_bad_rows_can_be_dropped(write: Write) -> None:
    train = write("a.jsonl", *labelled(20), "nope", {"text": " ", "label": "a"})
    found = load_dataset(DataConfig(train=train, on_bad_row="drop"), None, 1)
    assert found.ledger.counts()["dropped:bad"] == 2
    assert found.ledger.rows == 22
    assert any("2 bad rows dropped" in note for note in found.notes)
    notes = {note["where"]: note["note"] for note in found.ledger.to_json()["notes"]}
    assert notes["a.jsonl:22"] == "column 'text' is blank"


@pytest.mark.parametrize("policy", ["error", "drop"])
@pytest.mark.parametrize("row", ["nope", {"text": "x", "label": " "}])
def test_no_usable_row_is_an_error(write: Write, policy: str, row: object) -> None:
    file = write("a.jsonl", row, row)
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(train=file, on_bad_row=policy), None, 1)
    assert caught.value.where == "a.jsonl:1"


def test_the_message_names_the_column_as_the_file_does(write: Write) -> None:
    file = write("a.jsonl", {"review": "x", "stars": "1"}, {"review": 4, "stars": "1"})
    with pytest.raises(DataError, match=r"column 'review' \(text\) is a number \(4\)"):
        load_dataset(DataConfig(train=file), None, 1)


def test_format_and_task_must_agree(write: Write) -> None:
    file = write("a.jsonl", *labelled(20))
    with pytest.raises(ConfigError, match="does not take the format qa"):
        load_dataset(DataConfig(train=file, format="qa"), "classify", 1)
    with pytest.raises(DataError, match="of the format labels"):
        load_dataset(DataConfig(train=file), "instruct", 1)
    with pytest.raises(ConfigError, match="unknown task"):
        load_dataset(DataConfig(train=file), "clasify", 1)
    assert load_dataset(DataConfig(train=file), "lm", 1).format == "text"


def test_numbers_are_not_stratified(write: Write) -> None:
    file = write("a.jsonl", *[{"text": f"t{i}", "label": i / 7} for i in range(20)])
    assert len(load_dataset(DataConfig(train=file), "regress", 1).splits["validation"]) == 2
    with pytest.raises(DataError, match="every label"):
        load_dataset(DataConfig(train=file), "classify", 1)


def test_what_is_missing(write: Write) -> None:
    with pytest.raises(ConfigError, match="no training data"):
        load_dataset(DataConfig(), None, 1)
    with pytest.raises(ConfigError, match="no data files"):
        load_dataset(DataConfig(), None, 1, splits=("test",))
    file = write("a.jsonl", *labelled(3))
    with pytest.raises(ConfigError, match="named twice"):
        load_dataset(DataConfig(train=[file, file]), None, 1)
    with pytest.raises(DataError, match="no such file"):
        load_dataset(DataConfig(train=file, test="none.jsonl"), None, 1)


def test_load_examples(write: Write) -> None:
    file = write("new.jsonl", {"question": "one?"}, {"question": ""}, {"question": "two?"})
    examples, bad, name, notes = load_examples(file, DataConfig(format="qa"), need_target=False)
    assert [example.input_text for example in examples] == ["one?", "two?"]
    assert [row.where for row in bad] == ["new.jsonl:2"]
    assert name == "qa"
    assert notes == []
    with pytest.raises(DataError, match="needs the column 'answer'"):
        load_examples(file, DataConfig(format="qa"), need_target=True)


def test_refuse_bad() -> None:
    row = BadRow("a:1", "not JSON")
    refuse_bad([], 3, "error")
    refuse_bad([row], 3, "drop")
    with pytest.raises(DataError, match="1 row cannot be used: a:1: not JSON"):
        refuse_bad([row], 3, "error")


@pytest.mark.parametrize(
    ("files", "name", "rows"),
    [
        ({"train": "support.jsonl", "test": "support_test.jsonl"}, "qa", {"train": 198, "validation": 22, "test": 72}),
        ({"train": "intents.csv"}, "labels", {"train": 302, "validation": 34}),
    ],
)
def test_the_example_data(files: dict[str, str], name: str, rows: dict[str, int]) -> None:
    data = DataConfig(**{split: str(EXAMPLES / file) for split, file in files.items()})
    found = load_dataset(data, None, 42)
    assert found.format == name
    assert {split: len(examples) for split, examples in found.splits.items()} == rows


KNOWN = ["text", "label", "question", "answer", "prompt", "response", "instruction", "output", "messages", "history"]
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
turn = st.fixed_dictionaries({"role": ROLES, "content": leaf})
value = st.recursive(leaf | turn, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=3), value, max_size=4), max_size=12),
    policy=st.sampled_from(["error", "drop"]),
)
def test_any_json_gives_splits_or_an_error_to_act_on(write: Write, made: list[dict], policy: str) -> None:
    file = write("fuzz.jsonl", *made)
    try:
        found = load_dataset(DataConfig(train=file, on_bad_row=policy), None, 1)
    except TuneryError as error:
        assert error.problem
        assert error.hint
        return
    assert sum(map(len, found.splits.values())) + found.ledger.counts().get("dropped:bad", 0) == len(made)


# ------------------------------------------------------------------------------------------------ labels


def test_labels_are_renamed_and_ordered_by_a_mapping(write: Write) -> None:
    rows = [{"text": f"t {i}", "label": [0, 1, True, 2.5][i % 4]} for i in range(20)]
    data = DataConfig(train=write("a.jsonl", *rows), labels={2.5: "mixed", 1: "good", "0": "bad", "true": "good"})
    assert data.label_names == ["mixed", "good", "bad"]
    found = load_dataset(data, None, 1, ["train"])
    assert [example.label for example in found.splits["train"][:4]] == ["bad", "good", "good", "mixed"]
    assert DataConfig(labels=["b", True]).label_names == ["b", "true"]


def test_labels_that_the_mapping_lacks_are_bad_rows(write: Write) -> None:
    file = write("a.jsonl", *labelled(4), {"text": "t", "label": "c"}, {"text": "u", "label": ["a", "d"]})
    data = DataConfig(train=file, labels={"a": "x", "b": "y"})
    with pytest.raises(DataError) as caught:
        load_dataset(data, None, 1, ["train"])
    assert "a.jsonl:5: label 'c' is not in data.labels ('a', 'b')" in caught.value.problem
    assert "a.jsonl:6: label 'd'" in caught.value.problem and "add c: NAME" in caught.value.hint
    found = load_dataset(data.model_copy(update={"on_bad_row": "drop"}), None, 1, ["train"])
    assert found.ledger.counts() == {"used:train": 4, "dropped:bad": 2}
    examples, bad, _, _ = load_examples(file, data, need_target=False)
    assert not bad and examples[4].label == "c", "rows to predict may have any label"


def test_tags_and_several_labels_are_renamed(write: Write) -> None:
    file = write("t.jsonl", {"words": ["a", "b"], "tags": ["O", "B-PER"]})
    data = DataConfig(train=file, labels={"O": "O", "B-PER": "B-人"})
    assert load_dataset(data, None, 1, ["train"]).splits["train"][0].tags == ("O", "B-人")
    file = write("m.jsonl", {"text": "x", "label": ["a", "b"]}, {"text": "y", "label": []})
    merged = load_dataset(DataConfig(train=file, labels={"a": "c", "b": "c"}), None, 1, ["train"]).splits["train"]
    assert [example.label for example in merged] == [("c",), ()]


def test_a_separator_makes_several_labels_of_a_cell(write: Write) -> None:
    Path("m.csv").write_text("text,label\nx,a|b\ny,b | a\nz,a\nw,|\n", encoding="utf-8")
    data = DataConfig(train="m.csv", label_separator="|")
    found = load_dataset(data, None, 1, ["train"]).splits["train"]
    assert [example.label for example in found] == [("a", "b"), ("b", "a"), ("a",), ()]
    plain = load_dataset(DataConfig(train="m.csv"), None, 1, ["train"]).splits["train"]
    assert plain[0].label == "a|b", "a separator is never guessed"
