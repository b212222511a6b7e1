"""Held-out rows: seeded, by label, duplicates on one side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunery.data.split import holdout
from tunery.errors import DataError
from tunery.protocols import Example


def examples(labels: Sequence[Any], texts: list[str] | None = None) -> list[Example]:
    texts = texts or [f"text {i}" for i in range(len(labels))]
    return [
        Example("f", i, text=text, label=label) for i, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]


def test_share_and_partition() -> None:
    train, held = holdout(examples(["a", "b"] * 100), 0.1, 1)
    assert len(held) == 20
    assert sorted(train + held) == list(range(200))
    assert train == sorted(train)
    assert held == sorted(held)


def test_stratified() -> None:
    rows = examples(["a"] * 160 + ["b"] * 40)
    _, held = holdout(rows, 0.1, 1)
    assert Counter(rows[i].label for i in held) == {"a": 16, "b": 4}


def test_seed_decides() -> None:
    rows = examples(["a", "b"] * 50)
    assert holdout(rows, 0.1, 1) == holdout(rows, 0.1, 1)
    assert holdout(rows, 0.1, 1) != holdout(rows, 0.1, 2)


def test_same_in_every_process() -> None:
    code = (
        "import json; from tunery.data.split import holdout; from tunery.protocols import Example;"
        "rows=[Example('f',i+1,text=str(i%40),label=('a','b','c')[i%3:i%3+2]) for i in range(60)];"
        "print(json.dumps(holdout(rows,0.2,3)))"
    )
    found = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        found.add(json.dumps(json.loads(run.stdout)))
    assert len(found) == 1


def test_equal_inputs_stay_together() -> None:
    texts = [f" Text  {i % 20}" if i % 2 else f"text {i % 20}" for i in range(100)]
    rows = examples([None] * 100, texts)
    train, held = holdout(rows, 0.2, 1)
    normal = [text.strip().lower().replace("  ", " ") for text in texts]
    assert not {normal[i] for i in train} & {normal[i] for i in held}
    assert len(held) == 20


def test_every_label_keeps_a_training_row() -> None:
    labels = ["common"] * 30 + [f"rare{i}" for i in range(10)]
    rows = examples(labels)
    train, _ = holdout(rows, 0.5, 1)
    assert {rows[i].label for i in train} == set(labels)


def test_several_labels_a_row() -> None:
    rows = examples([("a", "b"), ("b",), ("c",), ("a",), (), ("b", "c")] * 3)
    train, held = holdout(rows, 0.4, 1)
    assert {label for i in train for label in rows[i].label} == {"a", "b", "c"}
    assert held


def test_two_rows_are_enough_without_labels() -> None:
    train, held = holdout(examples([None, None]), 0.1, 1)
    assert (len(train), len(held)) == (1, 1)


def test_a_large_group_is_taken_if_there_is_no_other() -> None:
    train, held = holdout(examples([None] * 10, ["x"] * 5 + ["y"] * 5), 0.1, 1)
    assert (len(train), len(held)) == (5, 5)


@pytest.mark.parametrize("rows", [examples(["a"]), examples(["a", "a"], ["x", "X "]), examples(["a", "b", "c"]), []])
def test_nothing_to_hold_out(rows: list[Example]) -> None:
    with pytest.raises(DataError) as caught:
        holdout(rows, 0.1, 1)
    assert "data.validation" in caught.value.hint


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
)
def test_always_a_partition(rows: list[tuple[str, str]], share: float, seed: int, stratify: bool) -> None:
    made = examples([label for _, label in rows], [text for text, _ in rows])
    try:
        train, held = holdout(made, share, seed, stratify)
    except DataError:
        return
    assert train
    assert held
    assert sorted(train + held) == list(range(len(rows)))
    assert not {rows[i][0] for i in train} & {rows[i][0] for i in held}
    if stratify:
        assert {rows[i][1] for i in train} == {label for _, label in rows}
