"""What simple means reach without a model: numbers that a tuned model has to beat.

Classes: the most frequent label (``majority``), logistic regression and naive Bayes on TF-IDF of words and pairs of
words, or of one to three characters where the text has no spaces (``tfidf``, ``naive_bayes``). Numbers: the mean, and
ridge regression on the same. Tags: the most frequent tag of each word. Answers: the most frequent one (``constant``),
the question itself (``copy``), or the first sentence of the context. Nothing is drawn at random.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from tunery import scoring
from tunery.data.words import split
from tunery.protocols import Example, Scored, Task

ROWS = 50_000
"""Most training rows that are looked at."""
CHARACTERS, LONGEST = 3_000_000, 5_000
"""Most characters of them all, and of one text."""
WORK = 4e7
"""Most (row, feature) pairs times classes: some ten seconds."""
FEATURES = 100_000
SCORED = 1_000
"""Most answers that are scored."""
APART = 0.2
"""Share of characters of scripts without spaces from which features are characters."""
_SPACELESS = re.compile("[぀-ヿ㐀-䶿一-鿿฀-๿]")
_WORD = r"(?u)\b\w+\b|[^\w\s]"
_SENTENCE = re.compile(r".+?(?:[。！？!?]|\.(?=\s|$)|\n|$)", re.DOTALL)
Guess = Callable[[Sequence[Example]], list[Any]]


@dataclass(slots=True)
class Baselines:
    """Ways to guess, fitted to training rows."""

    task: Task
    guesses: dict[str, Guess] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was left out, in words for the user."""
    seconds: float = 0.0

    def score(
        self, examples: Sequence[Example], metrics: Sequence[str] | None = None, answers: int | None = None
    ) -> dict[str, dict[str, float]]:
        """The numbers of each on the same rows as the model's.

        Args:
            metrics: names of numbers; None for the task's own. Losses are no matter of a guess.
            answers: most rows that are answered, for tasks that write text (``SCORED`` at most).
        """
        started = time.monotonic()
        names = [n for n in metrics or self.task.metrics if scoring.metric_of(n).kind != "loss"]
        if not self.guesses or not names:
            return {}
        if "text" in self.task.kinds:
            most = SCORED if answers is None or self.task.output == "logits" else min(answers, SCORED)
            asked = (example for example in examples if self.task.reference(example))
            examples = list(islice(asked, most))
        if not len(examples):
            return {}
        found = {}
        for name, guess in self.guesses.items():
            scored = Scored(
                guess(examples),
                [self.task.reference(example) for example in examples],
                [example.contains for example in examples] if self.task.output == "text" else [],
                tuple(getattr(self.task, "labels", ())),
            )
            found[name] = scoring.score(scored, names, self.task.kinds)
        self.seconds += time.monotonic() - started
        return found


def fit(task: Task, train: Sequence[Example]) -> Baselines:
    """Guesses for a task that is fitted to the same rows; none for plain texts, or where there is nothing to choose."""
    started = time.monotonic()
    found = Baselines(task)
    rows = [example for example in _some(train, ROWS) if task.kinds[0] != "loss" and _answered(task, example)]
    if len(train) > ROWS:
        found.notes.append(f"baselines: fitted to {ROWS:,} of {len(train):,} training rows")
    if rows:
        kind = "spans" if task.output == "logits" and task.kinds[0] == "text" else task.kinds[0]
        found.guesses = KINDS[kind](found, rows)
    found.seconds = time.monotonic() - started
    return found


def verdict(task: Task, tuned: Mapping[str, float], found: Mapping[str, Mapping[str, float]], rows: str) -> str | None:
    """One line if a baseline beats the tuned model by the task's first number, else None."""
    names = [task.monitor, *task.metrics, *tuned]
    numbers = scoring.number_names()
    shared = [n for n in names if n in tuned and any(n in values for values in found.values()) and n != "exact_match"]
    if not shared:
        return None
    number = shared[0]
    sign = 1 if numbers[number].higher_is_better else -1
    reached = {name: values[number] for name, values in found.items() if number in values}
    best = max(reached, key=lambda name: sign * reached[name])
    if sign * reached[best] <= sign * tuned[number]:
        return None
    return (
        f"the baseline {best} beats the tuned model on the {rows} rows: {number} {reached[best]:.4f} "
        f"against {tuned[number]:.4f}"
    )


def _answered(task: Task, example: Example) -> bool:
    reference = task.reference(example)
    return reference is not None and (reference != () or "multilabel" in task.kinds)


def _some(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """Rows evenly spread over all of them."""
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]


# ------------------------------------------------------------------------------------------- rows of text


def _text(example: Example) -> str:
    return example.input_text[:LONGEST]


def _vectoriser(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    sample = "".join(text[:200] for text in _some(texts, 1000))
    spaceless = len(_SPACELESS.findall(sample)) > APART * len("".join(sample.split()))
    kind: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 3)}
    if not spaceless:
        kind = {"token_pattern": _WORD, "ngram_range": (1, 2)}
    least = 2 if len(texts) >= 100 else 1
    return TfidfVectorizer(sublinear_tf=True, min_df=least, max_features=FEATURES, **kind)


def _features(found: Baselines, rows: Sequence[Example], classes: int) -> tuple[Any, Any, Sequence[Example]]:
    """→ vectoriser, matrix, and the rows it is of: as many as are quickly learnt from; none if they have no words."""
    length = sum(len(_text(example)) for example in _some(rows, 1000)) / min(len(rows), 1000)
    kept = _some(rows, max(int(CHARACTERS / max(length, 1)), 100))
    vectoriser = _vectoriser([_text(example) for example in kept])
    try:
        matrix = vectoriser.fit_transform([_text(example) for example in kept])
    except ValueError:  # not one word, or none that stands in two rows
        return None, None, ()
    if matrix.nnz * classes > WORK:
        most = max(int(len(kept) * WORK / (matrix.nnz * classes)), 100)
        places = _some(range(len(kept)), most)
        kept, matrix = [kept[i] for i in places], matrix[list(places)]
    if len(kept) < len(rows):
        found.notes.append(f"baselines: to be quick, regression and naive Bayes saw {len(kept):,} training rows")
    return vectoriser, matrix, kept


def _fitted(
    models: Mapping[str, Any], vectoriser: Any, matrix: Any, targets: Any, back: Callable[[Any], list[Any]]
) -> dict[str, Guess]:
    """A guess for each model; ``back`` makes values of what it predicts."""
    guesses: dict[str, Guess] = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a limit of steps, labels that all rows have: no matter here
            model.fit(matrix, targets)
        guesses[name] = partial(_guessed, model, vectoriser, back)
    return guesses


def _guessed(model: Any, vectoriser: Any, back: Callable[[Any], list[Any]], rows: Sequence[Example]) -> list[Any]:
    return back(model.predict(vectoriser.transform(map(_text, rows))))


def _models() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.naive_bayes import MultinomialNB

    # a class against the others: half the time of all at once, and as good
    regression = LogisticRegression(C=10, solver="liblinear", tol=1e-2, random_state=0)
    return {
        "tfidf": OneVsRestClassifier(regression),
        "naive_bayes": OneVsRestClassifier(MultinomialNB(alpha=0.1)),
    }


def _constant(value: Any) -> Guess:
    return lambda rows: [value] * len(rows)


def _most_frequent(values: Sequence[Any]) -> Any:
    """Of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]


def _classes(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    labels = [str(found.task.reference(example)) for example in rows]
    if len(set(labels)) < 2:
        return {}
    majority = {"majority": _constant(_most_frequent(labels))}
    vectoriser, matrix, kept = _features(found, rows, len(set(labels)))
    targets = [str(found.task.reference(example)) for example in kept]
    if len(set(targets)) < 2:
        return majority
    return majority | _fitted(_models(), vectoriser, matrix, targets, lambda guessed: guessed.tolist())


def _several(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    from sklearn.preprocessing import MultiLabelBinarizer

    majority = {"majority": _constant(_most_frequent([found.task.reference(example) for example in rows]))}
    names = sorted({label for example in rows for label in found.task.reference(example)})
    vectoriser, matrix, kept = _features(found, rows, len(names)) if names else (None, None, ())
    if not kept:
        return majority
    binary = MultiLabelBinarizer(classes=names)
    targets = binary.fit_transform([found.task.reference(example) for example in kept])
    return majority | _fitted(_models(), vectoriser, matrix, targets, binary.inverse_transform)


def _numbers(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    from sklearn.linear_model import Ridge

    targets = [float(found.task.reference(example)) for example in rows]
    mean = {"mean": _constant(sum(targets) / len(targets))}
    vectoriser, matrix, kept = _features(found, rows, 1)
    if not kept:
        return mean
    targets = [float(found.task.reference(example)) for example in kept]
    return mean | _fitted({"tfidf": Ridge()}, vectoriser, matrix, targets, lambda guessed: guessed.tolist())


# -------------------------------------------------------------------------------------------- the others


def _tags(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    """The tag that a word mostly has; of a word never seen, the tag that most words have."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in rows:
        for word, tag in zip(example.words, example.tags, strict=True):
            counts[word][tag] += 1
    usual = _most_frequent([tag for example in rows for tag in example.tags])
    known = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}

    def guess(examples: Sequence[Example]) -> list[Any]:
        return [[known.get(word, usual) for word in example.words or split(example.text)] for example in examples]

    return {"word_tag": guess}


def _answers(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    constant = _most_frequent([found.task.reference(example)[0].strip() for example in rows])
    return {"constant": _constant(constant), "copy": lambda examples: [_question(example) for example in examples]}


def _question(example: Example) -> str:
    asked = [message.content for message in example.messages if message.role == "user"]
    return asked[-1] if asked else example.text


def _spans(found: Baselines, rows: Sequence[Example]) -> dict[str, Guess]:
    constant = _most_frequent([found.task.reference(example)[0] for example in rows])

    def first_sentence(examples: Sequence[Example]) -> list[Any]:
        matches = (_SENTENCE.match((example.text_pair or "").strip()) for example in examples)
        return [match[0].strip() if match else "" for match in matches]

    return {"constant": _constant(constant), "first_sentence": first_sentence}


KINDS: dict[str, Callable[[Baselines, Sequence[Example]], dict[str, Guess]]] = {
    "classes": _classes,
    "multilabel": _several,
    "numbers": _numbers,
    "tags": _tags,
    "text": _answers,
    "spans": _spans,
}
"""By the kind of metric that reads a task's predictions; ``spans`` are answers cut from a text."""
