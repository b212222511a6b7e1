"""The ledger adds up; findings name the right rows."""

from __future__ import annotations

import json

import pytest

from tunery.data import findings
from tunery.data.ledger import Ledger, ranges
from tunery.data.rows import Rows
from tunery.protocols import Example, Message


def filled() -> Ledger:
    ledger = Ledger()
    for line in range(1, 11):
        ledger.add(f"dir/a:b.jsonl:{line}", "used:train")
    ledger.add("dir/a:b.jsonl:11", "dropped:bad", "not JSON", split="train")
    return ledger


def test_sums() -> None:
    ledger = filled()
    assert ledger.counts() == {"used:train": 10, "dropped:bad": 1}
    ledger.move("dir/a:b.jsonl:3", "used:validation")
    ledger.move("dir/a:b.jsonl:4", "dropped:too_long", "900 tokens", split="train")
    assert ledger.counts() == {"used:train": 8, "used:validation": 1, "dropped:bad": 1, "dropped:too_long": 1}
    assert ledger.rows == 11
    summary = ledger.summary()
    assert summary["rows_read"] == summary["used"] + sum(summary["dropped"].values())
    assert summary["splits"] == {"train": 8, "validation": 1}


def test_a_row_is_in_one_bucket() -> None:
    ledger = filled()
    with pytest.raises(ValueError, match="already in used:train"):
        ledger.add("dir/a:b.jsonl:3", "dropped:bad", split="train")
    for where in ("dir/a:b.jsonl:99", "other:1"):
        with pytest.raises(ValueError, match="0 rows"):
            ledger.move(where, "dropped:bad")
    for bucket in ("train", "used:", "lost:bad", "dropped:Too long"):
        with pytest.raises(ValueError, match="not a bucket"):
            ledger.move("dir/a:b.jsonl:3", bucket)
    with pytest.raises(ValueError, match="not file:line"):
        ledger.add("nowhere", "used:train")


def test_the_same_file_in_two_splits() -> None:
    ledger = Ledger()
    ledger.add("a:1", "used:train")
    ledger.add("a:1", "used:test")
    with pytest.raises(ValueError, match="which split"):
        ledger.move("a:1", "dropped:leak")
    ledger.move("a:1", "used:validation", split="train")
    ledger.move("a:1", "dropped:leak", split="validation")
    assert ledger.bucket("a:1", "test") == "used:test"
    assert ledger.counts() == {"used:test": 1, "dropped:leak": 1}


def test_json() -> None:
    ledger = filled()
    ledger.mark("dir/a:b.jsonl:2", "truncated")
    ledger.mark("dir/a:b.jsonl:5", "windows", 4)
    ledger.mark("dir/a:b.jsonl:6", "windows", 3)
    ledger.move("dir/a:b.jsonl:6", "dropped:too_long")
    value = json.loads(json.dumps(ledger.to_json()))
    assert value["rows_read"] == 11
    assert (value["truncated"], value["windows"]) == (1, 4)  # of the rows that are used
    assert value["files"] == [
        {
            "file": "dir/a:b.jsonl",
            "split": "train",
            "rows": 11,
            "buckets": {"used:train": "1-5, 7-10", "dropped:bad": "11", "dropped:too_long": "6"},
        }
    ]
    assert value["attributes"]["truncated"] == [{"file": "dir/a:b.jsonl", "lines": "2"}]
    assert value["notes"] == [{"where": "dir/a:b.jsonl:11", "note": "not JSON"}]


def test_json_of_many_rows_is_compact() -> None:
    ledger = Ledger()
    for line in range(1, 5001):
        ledger.add(f"a:{line}", "dropped:bad", f"note {line}", split="train")
    value = ledger.to_json()
    assert value["notes_left_out"] == 4000
    assert value["files"][0]["buckets"] == {"dropped:bad": "1-5000"}


@pytest.mark.parametrize(("numbers", "shown"), [([], ""), ([4], "4"), ([3, 1, 2], "1-3"), ([1, 3, 4, 9], "1, 3-4, 9")])
def test_ranges(numbers: list[int], shown: str) -> None:
    assert ranges(numbers) == shown


# ------------------------------------------------------------------------------------------- findings


def rows(file: str, *pairs: tuple[str, object]) -> list[Example]:
    return [Example(file, i, text=text, label=label) for i, (text, label) in enumerate(pairs, 1)]


def kinds(found: list[findings.Finding]) -> list[tuple[str, str, int]]:
    return [(f.kind, f.file, f.line) for f in found]


def find(splits: dict[str, list[Example]], classes: bool = True) -> list[findings.Finding]:
    """All but near-duplicates."""
    rows = {name: Rows.of(examples) for name, examples in splits.items()}
    found = [repeat.finding(rows) for repeat in (*findings.repeats(rows), *findings.leaks(rows))]
    variants = findings.label_variants(rows.values()) if classes else []
    return found + variants + findings.labels(rows, classes)


def found_in(**splits: list[Example]) -> list[findings.Finding]:
    """Repeats and leaks alone."""
    return [f for f in find(splits) if f.kind in ("duplicate", "conflict", "leak")]


def test_duplicates_and_conflicts() -> None:
    made = rows("a", ("Good  Room", "pos"), ("ｇｏｏｄ room ", "pos"), ("good room", "neg"), ("other", "neg"))
    found = found_in(train=made)
    assert kinds(found) == [("duplicate", "a", 2), ("conflict", "a", 3)]
    assert "a:1" in found[1].message


def test_another_answer_is_no_conflict() -> None:
    made = [Example("a", i, messages=(Message("user", "q"), Message("assistant", x))) for i, x in enumerate("xyx", 1)]
    found = found_in(train=made)
    assert [f.kind for f in found] == ["duplicate", "duplicate"]
    assert "another answer" in found[0].message
    assert "another answer" not in found[1].message


def test_validation_leaks_from_test_too() -> None:
    splits = {"train": rows("a", ("x", "1")), "validation": rows("v", ("y", "1")), "test": rows("b", ("y", "1"))}
    assert kinds(found_in(**splits)) == [("leak", "v", 1)]


def test_near_duplicates() -> None:
    text = "the quick brown fox jumps over the lazy dog and runs away from every hunter in the wood"
    other = "no two texts of this set look alike but for the pair that was made to be found by it"
    splits = {
        "train": rows("a", (text, "1"), (text.replace("lazy", "crazy"), "1"), (other, "1"), ("short", "2")),
        "test": rows("b", (other + "!", "1"), ("shorter", "2")),
    }
    found, groups = findings.near_repeats({name: Rows.of(made) for name, made in splits.items()})
    assert [(f.kind, f.split, f.place, f.other) for f in found] == [
        ("near_duplicate", "train", 1, "a:1"),
        ("near_leak", "train", 2, "b:1"),
    ]
    assert groups == {"train": [0, 0, 2, 3], "test": [2, 5]}


def test_every_row_that_is_near_a_later_one_leaks() -> None:
    """Not the nearest alone; and its exact repeats with it."""
    text = "the quick brown fox jumps over the lazy dog and runs away from every hunter in the wood"
    splits = {
        "train": rows("a", (text + "!", "1"), (text + "?", "1"), (text + "!", "1"), ("something else", "2")),
        "validation": rows("v", (text + ";", "1")),
        "test": rows("b", (text, "1")),
    }
    found, _ = findings.near_repeats({name: Rows.of(made) for name, made in splits.items()})
    leaking = [(f.split, f.place) for f in found if f.kind == "near_leak"]
    assert sorted(leaking) == [("train", 0), ("train", 1), ("train", 2), ("validation", 0)]
    assert [(f.split, f.place) for f in found if f.kind == "near_duplicate"] == [("train", 1)]


def test_leaks() -> None:
    splits = {"train": rows("a", ("x", "1"), ("Y", "1")), "test": rows("b", ("z", "1"), ("y ", "1"))}
    found = found_in(**splits)
    assert kinds(found) == [("leak", "a", 2)]
    assert "test: b:2" in found[0].message


def test_label_variants() -> None:
    labels = ["positive", "positive", "Positive ", "negative", ("N-egative", "negative")]
    made = rows("a", *[(str(i), label) for i, label in enumerate(labels)])
    found = findings.label_variants([Rows.of(made)])
    assert kinds(found) == [("label_variant", "a", 3), ("label_variant", "a", 5)]
    assert "'Positive '" in found[0].message


def test_counts() -> None:
    made = rows("a", *[(str(i), "many") for i in range(60)], *[(f"r{i}", "few") for i in range(3)])
    assert kinds(find({"train": made})) == [("few_rows", "a", 61), ("imbalance", "a", 61)]
    assert find({"train": made}, classes=False) == []
    assert kinds(find({"train": made[:5]})) == [("few_rows", "a", 1)]
    assert set(find({"train": made})[0].as_dict()) == {"kind", "file", "line", "message"}


def test_clean_data_has_no_findings() -> None:
    made = rows("a", *[(str(i), "ab"[i % 2]) for i in range(60)])
    assert find({"train": made, "test": rows("b", ("new", "a"))}) == []
