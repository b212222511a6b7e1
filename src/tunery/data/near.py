"""Rows that say nearly the same: MinHash finds candidates (Broder 1997), their true overlap decides.

Compared are the runs of five characters of a normalised text, so that it works for languages without spaces too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunery.data.rows import normalise
from tunery.protocols import Example

THRESHOLD = 0.85
"""Share of common shingles (Jaccard) from which two texts are nearly the same."""
MOST_ROWS = 50_000
"""Rows up to which near-duplicates are looked for unless the user says otherwise."""
_SHINGLE = 5  # characters
_READ = 1000  # characters of a text that are compared
_SHORT = 20  # shingles: in shorter texts a word more or less is another text
_PERMUTATIONS = 64
_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Pair:
    """Row ``later`` is nearly the same as row ``earlier``; both by number."""

    earlier: int
    later: int
    overlap: float


def shingles(text: str) -> frozenset[bytes]:
    """Runs of five characters of what is compared; empty for texts that are too short."""
    text = normalise(text)[:_READ]
    found = frozenset(text[i : i + _SHINGLE].encode("utf-8", "surrogatepass") for i in range(len(text) - _SHINGLE + 1))
    return found if len(found) >= _SHORT else frozenset()


def pairs(examples: Sequence[Example], skip: Sequence[bool]) -> Iterator[Pair]:
    """The earlier rows that each row is nearly the same as, the nearest first. ``skip``: rows known to be exact
    duplicates.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS)
    for begin in range(0, len(examples), _AT_A_TIME):
        numbers = [i for i in range(begin, min(begin + _AT_A_TIME, len(examples))) if not skip[i]]
        sets = {i: found for i in numbers if (found := shingles(examples[i].input_text))}
        hashes = MinHash.bulk(sets.values(), num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        for number, minhash in zip(sets, hashes, strict=True):
            overlaps = (
                (_overlap(sets[number], sets.get(other) or shingles(examples[other].input_text)), -other)
                for other in index.query(minhash)
            )
            for overlap, other in sorted((each for each in overlaps if each[0] >= THRESHOLD), reverse=True):
                yield Pair(-other, number, overlap)
            index.insert(number, minhash, check_duplication=False)


def _overlap(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    return len(one & other) / len(one | other)


def clusters(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Rows 0 to ``count`` - 1 → the lowest number of all rows that are linked with each."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for link in links:
        one, other = sorted(map(root, link))
        parents[other] = one
    return [root(row) for row in range(count)]
