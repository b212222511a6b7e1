"""Precision, recall and F1 of classification."""

from __future__ import annotations

from tunery.protocols import Metric, Number, Scored


class PrecisionRecallF1(Metric):
    """Precision, recall and F1 per class, averaged over the classes.

    Per class: P = TP / (TP + FP), R = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN); 0 where the denominator
    is 0. ``macro`` weighs every class alike, ``weighted`` by its number of references. The numbers are those of
    scikit-learn's ``precision_recall_fscore_support(zero_division=0)``.

    Averaged are the classes that occur in the references or the predictions, as scikit-learn does by default:
    a class of the training data that a small test file lacks is no reason for a zero. Where the class names are
    known (``scored.labels``), an answer that is none of them is a miss for the true class and not a class of
    its own.

    Example: a is found once of twice (P 1, R 1/2, F1 2/3), b once of once with a false alarm (P 1/2, R 1, F1 2/3).

    >>> numbers = PrecisionRecallF1().compute(Scored(predictions=["a", "b", "b"], references=["a", "b", "a"]))
    >>> {name: round(value, 3) for name, value in numbers.items() if name.endswith("macro")}
    {'precision_macro': 0.75, 'recall_macro': 0.75, 'f1_macro': 0.667}
    """

    summary = "precision, recall and F1 over the classes"
    kind = "classes"
    numbers = (
        Number("precision_macro", "mean precision of the classes"),
        Number("recall_macro", "mean recall of the classes"),
        Number("f1_macro", "mean F1 of the classes, rare classes counting as much as frequent ones"),
        Number("precision_weighted", "mean precision, classes weighted by their rows"),
        Number("recall_weighted", "mean recall, classes weighted by their rows"),
        Number("f1_weighted", "mean F1, classes weighted by their rows"),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing for no rows."""
        from sklearn.metrics import precision_recall_fscore_support

        if not scored.references:
            return {}
        references = [str(label) for label in scored.references]
        predictions = [str(label) for label in scored.predictions]
        seen = set(references)
        seen.update(p for p in predictions if not scored.labels or p in scored.labels)
        result: dict[str, float] = {}
        for average in ("macro", "weighted"):
            values = precision_recall_fscore_support(
                references, predictions, labels=sorted(seen), average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), values, strict=False):
                result[f"{name}_{average}"] = float(value)
        return result
