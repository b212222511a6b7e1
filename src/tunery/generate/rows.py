"""Keys and values of rows that come and go: a cache of transformers' kind, with room in which it grows.

All rows end in the same column, so what is new is written into one column for all. A row begins where its prompt is
short enough to; the columns before that are masked. transformers' own cache copies everything for each token and
whenever the rows change. Here a token costs a write of its own size, a row that joins or leaves the copy of one row,
and everything is copied only once in ``BLOCK`` columns. Layers with a sliding window keep all columns too: the window
is in the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 64
"""Columns by which the room grows."""


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values [rows, heads, columns, size] of one layer; more rows and columns than are in use."""

    is_sliding = False

    def __init__(self, cache: RowCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.cache = cache
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """It is made with its room."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the columns after the last one → all columns in use, these among them."""
        rows, start, end = self.cache.rows, self.cache.start, self.cache.end
        new = end + key_states.shape[2]
        self.keys[:rows, :, end:new] = key_states
        self.values[:rows, :, end:new] = value_states
        return self.keys[:rows, :, start:new], self.values[:rows, :, start:new]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.cache.end - self.cache.start

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """Columns in use are ``start … end - 1``; a row's own are ``begins[row] … end - 1``."""

    def __init__(self, most: int) -> None:
        super().__init__(layers=[])
        self.most = most
        """Rows that there will ever be."""
        self.layers: list[Any] = []
        self.end = 0
        self.begins: list[int] = []
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    @property
    def rows(self) -> int:
        return len(self.begins)

    @property
    def start(self) -> int:
        return min(self.begins, default=self.end)

    def mask(self) -> Tensor:
        """[rows, columns in use and the next one], 1 where a row has a token."""
        return self._mask[: self.rows, self.start : self.end + 1]

    def advance(self) -> None:
        """The next column has been written."""
        self.end += 1
        if self.end == self._mask.shape[1]:
            self._move(self.rows, self.end - self.start)

    def join(self, read: Cache, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Add rows of a cache in which their prompts end in the last column.

        Args:
            read: padded on the left.
            lengths: tokens of each of ``rows``.
        """
        columns = max(lengths)
        found: list[Any] = read.layers
        if not self.layers:
            device = found[0].keys.device
            self._mask = torch.zeros(0, 0, dtype=torch.long, device=device)
            self.layers = [_Layer(self, layer.keys[:0, :, :0], layer.values[:0, :, :0]) for layer in found]
        first, total = self.rows, self.rows + len(rows)
        if total > len(self._mask) or columns > self.end or self.end >= self._mask.shape[1]:
            self._move(total, max(columns, self.end - self.start))
        place = slice(self.end - columns, self.end)
        index = torch.tensor(list(rows), device=self._mask.device)
        for mine, theirs in zip(self.layers, found, strict=True):
            for name in ("keys", "values"):
                getattr(mine, name)[first:total, :, place] = getattr(theirs, name)[:, :, -columns:][index]
        for row, length in enumerate(lengths, first):
            self._mask[row] = 0
            self._mask[row, self.end - length :] = 1
            self.begins.append(self.end - length)

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows alone: ``order[i]``, not less than i, becomes row i."""
        start = self.start
        for row, old in enumerate(order):
            if row != old:
                for layer in self.layers:
                    layer.keys[row, :, start : self.end] = layer.keys[old, :, start : self.end]
                    layer.values[row, :, start : self.end] = layer.values[old, :, start : self.end]
                self._mask[row] = self._mask[old]
        self.begins = [self.begins[old] for old in order]
        if not order:
            self.layers, self.end = [], 0  # gives the memory back
            self._mask = self._mask[:0, :0].clone()

    def _move(self, rows: int, columns: int) -> None:
        """Copy what is in use to where there is room for so many rows, columns, and a block of columns after them."""
        start, held = self.start, self.end - self.start
        room = len(self._mask)
        if rows > room:
            room = max(rows, min(2 * room, self.most))
        elif rows * 4 < room:
            room = rows
        wide = -(-(columns + 1) // BLOCK) * BLOCK + BLOCK
        place = slice(columns - held, columns)
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(room, old.shape[1], wide, old.shape[3])  # a masked column must be finite
                new[: self.rows, :, place] = old[: self.rows, :, start : self.end]
                setattr(layer, name, new)
        mask = self._mask.new_zeros(room, wide)
        mask[: self.rows, place] = self._mask[: self.rows, start : self.end]
        mask[: self.rows, columns:] = 1
        shift = place.stop - self.end
        self._mask, self.end = mask, columns
        self.begins = [begin + shift for begin in self.begins]
