"""Which rows go into which step, and rows as padded tensors."""

from __future__ import annotations

import random

import pytest
import torch

from tunery.data.batch import SORTED_STEPS, collate, in_order, micro_batches, plan_epoch
from tunery.protocols import IGNORE, Encoded


def lengths(count: int, seed: int = 1) -> list[int]:
    pick = random.Random(seed)
    return [pick.randint(1, 60) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100, 8 * SORTED_STEPS, 8 * SORTED_STEPS + 3, 1003])
@pytest.mark.parametrize("by_length", [True, False])
def test_an_epoch_has_every_row_once(count: int, by_length: bool) -> None:
    plan = plan_epoch(lengths(count), 8, seed=3, epoch=2, by_length=by_length)
    assert sorted(row for step in plan for row in step) == list(range(count))
    assert len(plan) == -(-count // 8)  # the loop counts its steps by this
    assert max(map(len, plan)) <= 8
    assert sum(len(step) < 8 for step in plan) <= 1


@pytest.mark.parametrize("by_length", [True, False])
def test_the_plan_follows_from_seed_and_epoch_alone(by_length: bool) -> None:
    long = lengths(100)
    plan = plan_epoch(long, 8, 3, 2, by_length)
    state = torch.get_rng_state()
    random.seed(99)
    assert plan_epoch(long, 8, 3, 2, by_length) == plan
    assert torch.equal(torch.get_rng_state(), state)
    assert plan_epoch(long, 8, 4, 2, by_length) != plan
    assert plan_epoch(long, 8, 3, 3, by_length) != plan


def test_steps_of_similar_length_come_in_random_order() -> None:
    long = lengths(800)

    def padding(by_length: bool) -> int:
        plan = plan_epoch(long, 8, 1, 0, by_length)
        return sum(max(long[row] for row in step) * len(step) for step in plan) - sum(long)

    assert padding(True) < padding(False) / 5
    means = [sum(long[row] for row in step) / len(step) for step in plan_epoch(long, 8, 1, 0, True)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


@pytest.mark.parametrize(("most_rows", "most_tokens"), [(1, 1000), (4, 1000), (8, 100), (100, 64), (3, 1)])
def test_forward_passes_keep_to_their_limits(most_rows: int, most_tokens: int) -> None:
    long = lengths(50)
    rows = random.Random(0).sample(range(50), 20)
    cuts = micro_batches(rows, long, most_rows, most_tokens)
    assert sorted(row for cut in cuts for row in cut) == sorted(rows)
    for cut in cuts:
        assert 1 <= len(cut) <= most_rows
        padded = max(long[row] for row in cut) * len(cut)
        assert padded <= most_tokens or len(cut) == 1  # one row that is too long still has to go somewhere
    assert micro_batches([], long, most_rows, most_tokens) == []


def test_evaluation_sees_every_row_once() -> None:
    long = lengths(50)
    cuts = in_order(long, 8, 200)
    assert sorted(row for cut in cuts for row in cut) == list(range(50))
    assert all(len(cut) <= 8 for cut in cuts)


# ------------------------------------------------------------------------------------------- as tensors


def test_padding_is_told_by_position() -> None:
    """Token 2 is EOS and padding: the real one stays, with its label."""
    rows = [Encoded([5, 6, 2], [IGNORE, 6, 2]), Encoded([7, 2, 8, 9, 2], [IGNORE, IGNORE, 8, 9, 2])]
    batch = collate(rows, pad_id=2)
    assert batch["input_ids"].tolist() == [[5, 6, 2, 2, 2], [7, 2, 8, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 2, IGNORE, IGNORE], [IGNORE, IGNORE, 8, 9, 2]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_segment_ids_are_padded_too() -> None:
    rows = [Encoded([1, 2], type_ids=[0, 1]), Encoded([1, 2, 3], type_ids=[0, 1, 1])]
    assert collate(rows, 0)["token_type_ids"].tolist() == [[0, 1, 0], [0, 1, 1]]


def test_rows_of_one_text_beside_rows_of_two_are_all_of_the_first_kind() -> None:
    rows = [Encoded([1, 2]), Encoded([1, 2, 3], type_ids=[0, 1, 1]), Encoded([4])]
    assert collate(rows, 0)["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert "token_type_ids" not in collate([rows[0], rows[2]], 0)


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [([1, 0], torch.long), ([1.5, -2.0], torch.float32), ([[1.0, 0.0], [0.0, 1.0]], torch.float32)],
)
def test_targets_of_rows(targets: list, dtype: torch.dtype) -> None:
    batch = collate([Encoded([1], target=target) for target in targets], 0)
    assert batch["target"].dtype == dtype
    assert batch["target"].tolist() == targets


def test_rows_without_target_have_none() -> None:
    assert "target" not in collate([Encoded([1]), Encoded([1, 2])], 0)


def test_supervised_tokens_are_those_that_are_predicted() -> None:
    assert Encoded([1, 2, 3], [1, IGNORE, 3]).supervised == 1  # nothing comes before the first token
    assert Encoded([1, 2, 3], target=1).supervised == 1
    assert Encoded([1, 2, 3]).supervised == 0
