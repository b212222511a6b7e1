"""Read very many rows with all CPUs: every process goes through the files, each makes examples of its share.

Only a sample of the examples is kept; of the others what rows are compared by comes back.
"""

from __future__ import annotations

import multiprocessing
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from tunery.data.read import BadRow, Record
from tunery.data.rows import Store, merged
from tunery.data.source import Source
from tunery.errors import ResourceError, TuneryError
from tunery.models.machine import cpus

WORTH_BYTES = 100_000_000  # of all files, from which other processes are worth their start
TURN = 1000  # records that a process takes, before it is the next one's turn
Take = Callable[[Record, Store, list[BadRow]], None]
_Found = tuple[dict[str, Any], Sequence[int], list[tuple[int, BadRow]]]


def worth_it(sources: Sequence[Source]) -> bool:
    if sys.platform != "linux" or cpus() < 2 or any(source.name == "-" for source in sources):
        return False
    return sum(source.path.stat().st_size for source in sources if source.path.is_file()) >= WORTH_BYTES


def load(
    records: Iterable[Record], again: Callable[[], Iterable[Record]], take: Take, sample: int
) -> tuple[Store, list[BadRow]]:
    """→ all rows in order, of which ``sample`` can be read, and the bad ones.

    Args:
        records: what this process reads.
        again: the same records from their beginning, for another process.
        take: puts a record into a store, or among the bad rows.
    """
    count = cpus()
    context = multiprocessing.get_context("fork")
    pipes = []
    for number in range(1, count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(theirs, again, number, count, take, sample), daemon=True)
        process.start()
        theirs.close()
        pipes.append((ours, process))
    found = [_share(records, 0, count, take, sample)]
    for pipe, process in pipes:
        try:
            found.append(pipe.recv())
        except EOFError:  # what is wrong with the files this process has met too, and has said
            raise ResourceError("a process that read the data has died", "is there enough memory?") from None
        process.join()
    bad = sorted((item for _, _, rows in found for item in rows), key=lambda item: item[0])
    return merged([parcel for parcel, _, _ in found], [numbers for _, numbers, _ in found]), [row for _, row in bad]


def _send(pipe: Any, again: Callable[[], Iterable[Record]], *share: Any) -> None:
    with suppress(TuneryError):
        pipe.send(_share(again(), *share))


def _share(records: Iterable[Record], turn: int, count: int, take: Take, sample: int) -> _Found:
    """What is found in every ``count``-th turn of the records."""
    store, numbers = Store(sample // count, least=0), array("q")
    bad: list[tuple[int, BadRow]] = []
    for number, record in enumerate(records):
        if number // TURN % count != turn:
            continue
        strange: list[BadRow] = []
        before = len(store)
        take(record, store, strange)
        numbers.extend([number] * (len(store) - before))
        bad += [(number, row) for row in strange]
    return store.parcel(), numbers, bad
