"""Read very many rows with all CPUs: every process goes through the files, each reads and makes examples of its share.

Only a sample of the examples is kept; of the others what rows are compared by comes back.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from tunery.data.read import SKIPPED, BadRow, Record, Records
from tunery.data.rows import Store, merged
from tunery.data.source import Share, Source
from tunery.errors import ResourceError, TuneryError
from tunery.models.machine import cpus

WORTH_BYTES = 100_000_000  # of all files, from which other processes are worth their start
Take = Callable[[Record, Store, list[BadRow]], None]
_Found = tuple[dict[str, Any], Sequence[int], list[tuple[int, BadRow]]]


def worth_it(sources: Sequence[Source]) -> bool:
    if sys.platform != "linux" or cpus() < 2:
        return False
    if any(source.name == "-" or not source.here for source in sources):  # the network takes longer than reading
        return False
    return sum(source.path.stat().st_size for source in sources if source.path.is_file()) >= WORTH_BYTES


def load(head: Sequence[Record], stream: Records, take: Take, sample: int) -> tuple[Store, list[BadRow]]:
    """→ all rows in order, of which ``sample`` can be read, and the bad ones.

    Args:
        head: records that were taken from ``stream`` before: fewer than are one turn, or of one file.
        take: puts a record into a store, or among the bad rows.
    """
    count = cpus()
    context = multiprocessing.get_context("fork")
    pipes = []
    for number in range(1, count):
        ours, theirs = context.Pipe(duplex=False)
        job = (theirs, stream.sources, Share(number, count), take, sample)
        process = context.Process(target=_send, args=job, daemon=True)
        process.start()
        theirs.close()
        pipes.append((ours, process))
    own = Share(0, count)
    _give(stream.sources, own)
    begin = (record if own.has(number) else SKIPPED for number, record in enumerate(head))
    found = [_share(chain(begin, stream), take, sample // count)]
    for pipe, process in pipes:
        try:
            found.append(pipe.recv())
        except EOFError:  # what is wrong with the files this process has met too, and has said
            raise ResourceError("a process that read the data has died", "is there enough memory?") from None
        process.join()
    bad = sorted((item for _, _, rows in found for item in rows), key=lambda item: item[0])
    return merged([parcel for parcel, _, _ in found], [numbers for _, numbers, _ in found]), [row for _, row in bad]


def _send(pipe: Any, sources: list[Source], share: Share, take: Take, sample: int) -> None:
    _give(sources, share)
    with suppress(TuneryError):
        pipe.send(_share(Records(sources), take, sample // share.of))


def _give(sources: Iterable[Source], share: Share) -> None:
    for source in sources:
        source.share = share


def _share(records: Iterable[Record], take: Take, sample: int) -> _Found:
    store, numbers = Store(sample, least=0), array("q")
    bad: list[tuple[int, BadRow]] = []
    with _without_collector():
        _take_all(records, take, store, numbers, bad)
    return store.parcel(), numbers, bad


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows have no cycles, but looking for them takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _take_all(
    records: Iterable[Record], take: Take, store: Store, numbers: array[int], bad: list[tuple[int, BadRow]]
) -> None:
    for number, record in enumerate(records):
        if record is SKIPPED:
            continue
        strange: list[BadRow] = []
        before = len(store)
        take(record, store, strange)
        for _ in range(len(store) - before):
            numbers.append(number)
        if strange:
            bad += [(number, row) for row in strange]
