"""Which rows go into which step, and how rows become padded tensors.

A step always sees ``batch_size * accumulate`` rows. How they are cut into forward passes changes speed and
memory but not the gradient, since the loss is normalised over the step's targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from tunery.config import TrainConfig
from tunery.protocols import IGNORE, Batch, Encoded

if TYPE_CHECKING:
    import torch

SORTED_STEPS = 50
"""Rows are shuffled, then sorted by length within this many steps: little padding, still random order."""

WHOLE = 32
"""Rows end to end are filled up to a multiple of so many tokens."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How a training's rows become its steps and forward passes: rows of similar length beside each other, padded, or
    (``joined``) any rows end to end.
    """

    config: TrainConfig
    joined: bool = False

    def plan(self, lengths: Sequence[int], rows_per_step: int, epoch: int) -> list[list[int]]:
        """Row numbers of each optimizer step of one epoch."""
        by_length = self.config.group_by_length and not self.joined
        return plan_epoch(lengths, rows_per_step, self.config.seed, epoch, by_length)

    def cut(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Row numbers of each forward pass of a step."""
        cut_up = joined_batches if self.joined else micro_batches
        return cut_up(rows, lengths, self.config.batch_size, self.config.micro_tokens)

    def batch(self, rows: Sequence[Encoded], pad_id: int, device: torch.device | str) -> Batch:
        """The tensors of one forward pass."""
        return (join if self.joined else collate)(rows, pad_id, device)


def plan_epoch(lengths: Sequence[int], rows_per_step: int, seed: int, epoch: int, by_length: bool) -> list[list[int]]:
    """Row numbers of each optimizer step of one epoch; the same arguments give the same plan."""
    import numpy as np

    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).tolist()
    if not by_length:
        return [order[i : i + rows_per_step] for i in range(0, len(order), rows_per_step)]
    steps: list[list[int]] = []
    window = rows_per_step * SORTED_STEPS
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda row: lengths[row])
        steps += [part[i : i + rows_per_step] for i in range(0, len(part), rows_per_step)]
    return [steps[i] for i in random.permutation(len(steps))]


def micro_batches(rows: Sequence[int], lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Cut a step's rows into forward passes of at most ``most_rows`` rows and ``most_tokens`` padded tokens."""
    batches: list[list[int]] = [[]]
    longest = 0
    for row in sorted(rows, key=lambda r: lengths[r]):
        longest = max(longest, lengths[row])
        if batches[-1] and (len(batches[-1]) == most_rows or longest * (len(batches[-1]) + 1) > most_tokens):
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return [batch for batch in batches if batch]


def joined_batches(
    rows: Sequence[int], lengths: Sequence[int], most_rows: int, most_tokens: int
) -> list[list[int]]:
    """As ``micro_batches``, for rows that lie end to end: in their order, and without padding."""
    batches: list[list[int]] = []
    tokens = 0
    for row in rows:
        if not batches or len(batches[-1]) == most_rows or tokens + lengths[row] > most_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(row)
        tokens += lengths[row]
    return batches


def in_order(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """All rows, in batches of similar length, for evaluation."""
    return micro_batches(range(len(lengths)), lengths, most_rows, most_tokens)


def _padded(values: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    import torch

    padded = torch.full((len(values), max(map(len, values))), filling, dtype=torch.long)
    for i, value in enumerate(values):
        padded[i, : len(value)] = torch.tensor(value)
    return padded


def join(rows: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Rows end to end as one sequence [1, tokens], for models that ``models.joined`` fits: ``position_ids`` begin anew
    with each row, and ``ends`` [rows + 1] are the places between them. A row of padding makes the length a multiple of
    ``WHOLE``: kernels are made for each length.
    """
    import torch

    sizes = [len(row.ids) for row in rows]
    filling = -sum(sizes) % WHOLE
    ids = [i for row in rows for i in row.ids] + [pad_id] * filling
    labels = [label for row in rows for label in (IGNORE, *(row.labels or ())[1:])] + [IGNORE] * filling
    positions = [i for size in (*sizes, filling) for i in range(size)]
    mask = [1] * (len(ids) - filling) + [0] * filling
    named = {"input_ids": ids, "attention_mask": mask, "labels": labels, "position_ids": positions}
    batch: Batch = {name: torch.tensor([values], device=device) for name, values in named.items()}
    batch["ends"] = torch.tensor(list(accumulate([*sizes, filling] if filling else sizes, initial=0)))
    return batch


def _type_ids(rows: Sequence[Encoded]) -> list[list[int] | None]:
    """Rows of one text have none: they are all of the first kind, and must be so beside rows of two."""
    if all(row.type_ids is None for row in rows):
        return [None] * len(rows)
    return [row.type_ids or [0] * len(row.ids) for row in rows]


def collate(rows: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Padded on the right; padding is told by position (``attention_mask``), never by id."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    batch: Batch = {"input_ids": ids, "attention_mask": mask}
    for name, values, filling in (
        ("labels", [row.labels for row in rows], IGNORE),
        ("tags", [row.tags for row in rows], IGNORE),
        ("token_type_ids", _type_ids(rows), 0),
        ("answer", [row.answer for row in rows], IGNORE),
    ):
        given = [value for value in values if value is not None]
        if len(given) == len(rows):
            batch[name] = _padded(given, filling)
    if all(row.span is not None for row in rows):
        batch["span"] = torch.tensor([row.span for row in rows])
    if all(row.target is not None for row in rows):
        whole = all(isinstance(row.target, int) for row in rows)
        batch["target"] = torch.tensor([row.target for row in rows], dtype=torch.long if whole else torch.float32)
    return {name: tensor.to(device) for name, tensor in batch.items()}
