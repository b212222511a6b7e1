"""Precision, recall and F1 of tagged entities."""

from __future__ import annotations

from collections.abc import Sequence

from tunery.protocols import Metric, Number, Scored


class EntityF1(Metric):
    """An entity is right if its type, its first and its last word are. Counted over all sentences ("micro").

    P = right / predicted, R = right / true, F1 = 2PR / (P + R); 0 where there is nothing to divide by. Tags are read
    as seqeval does by default and conlleval did: BIO and BIOES, and leniently, so that an I without a B before it,
    or after another type, begins an entity. Tags without a hyphen (parts of speech) are types of their own.

    ``token_accuracy`` is the share of words with the right tag: where most words are O, a tagger that finds nothing
    gets a high one.

    Example: one of two true entities is found, and one of two predicted ones is right; 3 of 4 tags are right.

    >>> EntityF1().compute(Scored(predictions=[["B-PER", "O", "O", "B-LOC"]],
    ...                           references=[("B-PER", "O", "O", "B-ORG")]))
    {'entity_precision': 0.5, 'entity_recall': 0.5, 'entity_f1': 0.5, 'token_accuracy': 0.75}
    """

    summary = "entities found, right in type and both ends; share of right tags"
    kind = "tags"
    numbers = (
        Number("entity_precision", "share of the predicted entities that are right"),
        Number("entity_recall", "share of the true entities that are found"),
        Number("entity_f1", "harmonic mean of entity precision and recall (as seqeval's default)"),
        Number("token_accuracy", "share of words with the right tag, O included"),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing for no rows."""
        pairs = list(zip(scored.predictions, scored.references, strict=True))
        if not pairs:
            return {}
        predicted, true, words, same = set(), set(), 0, 0
        for row, (prediction, reference) in enumerate(pairs):
            predicted |= {(row, *entity) for entity in entities(prediction)}
            true |= {(row, *entity) for entity in entities(reference)}
            words += len(reference)
            same += sum(p == r for p, r in zip(prediction, reference, strict=True))
        right = len(predicted & true)
        return {
            "entity_precision": right / max(len(predicted), 1),
            "entity_recall": right / max(len(true), 1),
            "entity_f1": 2 * right / max(len(predicted) + len(true), 1),
            "token_accuracy": same / max(words, 1),
        }


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """[first, last] word and type of each entity.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [(0, 1, 'PER'), (3, 3, 'LOC'), (4, 4, 'LOC')]
    """
    found: list[tuple[int, int, str]] = []
    before = ("O", "")
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-") if "-" in tag else ("O" if tag == "O" else "I", "", tag)
        if mark != "O":
            begins = before[0] in "OES" or mark in "BS" or kind != before[1]
            found.append((place, place, kind) if begins else (found.pop()[0], place, kind))
        before = (mark, kind)
    return found
