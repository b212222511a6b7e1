"""Rows with several labels at once."""

from __future__ import annotations

from tunery.protocols import Metric, Number, Scored


class MultiLabel(Metric):
    """F1 and exact sets where a row has any number of labels. References and predictions are tuples of names.

    F1 = 2 TP / (2 TP + FP + FN), counted over all decisions (``f1_micro``), per row and averaged
    (``f1_samples``), per label and averaged (``f1_macro_labels``, over the labels that occur in references or
    predictions). A row without labels for which none is predicted is right: its F1 is 1 (scikit-learn's
    ``f1_score(zero_division=1)``).

    Example: TP 2 (a, b), FP 1 (c), FN 0; rows have F1 1 and 2/3; labels a 1, b 1, c 0.

    >>> numbers = MultiLabel().compute(Scored(predictions=[("a",), ("b", "c")], references=[("a",), ("b",)]))
    >>> {name: round(value, 3) for name, value in numbers.items()}
    {'f1_micro': 0.8, 'f1_samples': 0.833, 'f1_macro_labels': 0.667, 'subset_accuracy': 0.5}
    """

    summary = "F1 and exact sets of rows with several labels"
    kind = "multilabel"
    numbers = (
        Number("f1_micro", "F1 over all label decisions"),
        Number("f1_samples", "mean F1 of the rows", mean_of_rows=True),
        Number("f1_macro_labels", "mean F1 of the labels"),
        Number("subset_accuracy", "share of rows with exactly the right set of labels", mean_of_rows=True),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing for no rows."""
        from sklearn.metrics import f1_score
        from sklearn.preprocessing import MultiLabelBinarizer

        if not scored.references:
            return {}
        predictions = [set(labels) for labels in scored.predictions]
        references = [set(labels) for labels in scored.references]
        exact = sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)
        seen = sorted(set().union(*predictions, *references))
        result = dict.fromkeys(("f1_micro", "f1_samples", "f1_macro_labels"), 1.0)  # no label anywhere: all right
        if seen:
            # scikit-learn takes a table of one column for one of two classes; the second column is not averaged
            table = MultiLabelBinarizer(classes=[*seen, "\0"])
            truth, guess = table.fit_transform(references), table.transform(predictions)
            for name, average in (("f1_micro", "micro"), ("f1_samples", "samples"), ("f1_macro_labels", "macro")):
                columns = list(range(len(seen)))
                result[name] = float(f1_score(truth, guess, labels=columns, average=average, zero_division=1))
        return {**result, "subset_accuracy": exact}
