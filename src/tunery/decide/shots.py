"""Few-shot examples: which training rows stand in the prompt, and how they become text of a template."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from tunery.data import cloze, soft
from tunery.decide.candidates import Candidate
from tunery.decide.prompt_scores import Material
from tunery.errors import ConfigError
from tunery.protocols import Example

_SHORTER = 0.75
"""Share of the rows that examples are taken from: the longest would fill the prompt."""


def choices(material: Material, count: int, draws: int, seed: int) -> list[tuple[Example, ...]]:
    """``draws`` random choices of ``count`` training rows, and the one nearest to the development rows by TF-IDF;
    as many of each class as can be, in random order.
    """
    rows = sorted(material.pool, key=lambda row: len(_asked(row)))
    usable = [row for row in rows[: max(count, int(_SHORTER * len(rows)))] if _plain(row)]
    if len(usable) < count or not count:
        return []
    found = []
    for number in range(draws):
        pick = random.Random(f"{seed} {number}")
        found.append(_each_class(pick.sample(usable, len(usable)), count, pick))
    found.append(_each_class(_nearest(usable, material.rows), count, random.Random(f"{seed}")))
    return list(dict.fromkeys(found))


def _each_class(rows: Sequence[Example], count: int, pick: random.Random) -> tuple[Example, ...]:
    """The first rows of each class in turn, shuffled."""
    by_label: dict[str, list[Example]] = {}
    for row in rows:
        by_label.setdefault(str(row.label), []).append(row)
    found: list[Example] = []
    while len(found) < count and any(by_label.values()):
        for waiting in by_label.values():
            if waiting and len(found) < count:
                found.append(waiting.pop(0))
    pick.shuffle(found)
    return tuple(found)


def _nearest(rows: Sequence[Example], asked: Sequence[Example]) -> list[Example]:
    """Rows by their mean cosine with those asked, highest first. A template holds the same examples for every row."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=20_000)
    try:
        matrix = vectoriser.fit_transform([_asked(row) for row in rows])
    except ValueError:  # no text has two letters
        return list(rows)
    centre = np.asarray(vectoriser.transform([_asked(row) for row in asked]).mean(axis=0))
    near = np.asarray(matrix @ centre.T).ravel()
    order = sorted(range(len(rows)), key=lambda i: -float(near[i]))
    return [rows[i] for i in order]


def _asked(row: Example) -> str:
    return row.input_text


def _plain(row: Example) -> bool:
    """Whether its texts mean nothing in a template, once braces are written twice."""
    text = _asked(row) + (row.messages[-1].content if row.messages else "")
    private = any(soft.is_soft(character, soft.MOST) for character in text)
    return not private and not soft.MARKER.search(text)


def with_examples(material: Material, candidate: Candidate, rows: Sequence[Example]) -> Candidate:
    """The prompt with solved examples in front. Raises ConfigError if they cannot be put into it."""
    if material.task.name == "cloze":
        template = _cloze(material, candidate, rows)
        front = template.removesuffix(str(candidate.task["template"]))
        return candidate.changed("shots", longer=_tokens(material, front), template=template)
    system = str(candidate.task.get("system") or "")
    solved = "\n\n".join(f"Question: {_asked(row)}\nAnswer: {row.messages[-1].content}" for row in rows)
    whole = f"{system}\n\n{solved}".strip()
    return candidate.changed("shots", longer=_tokens(material, whole), system=whole)


def _cloze(material: Material, candidate: Candidate, rows: Sequence[Example]) -> str:
    template = str(candidate.task["template"])
    parsed, words = cloze.parse(template), candidate.task.get("verbaliser") or {}
    apart = "\n\n" if "\n" in template else "\n"
    solved = []
    for row in rows:
        texts = {name: getattr(row, name) for name in parsed.fields}
        if None in texts.values():
            raise ConfigError("an example has no second text", "leave {text_pair} out", "task.template")
        label = str(row.label)
        solved.append(parsed.fill(texts, words.get(label, [label])[0]).text.strip())
    front = "".join(text + apart for text in solved)
    whole = escaped(front) + template
    first = cloze.parse(whole).parts[0]
    if first.field or not first.literal.startswith(front):  # never seen; a wrong prompt must not go unnoticed
        raise ConfigError("the examples cannot be written as a template", "lower --shots to 0", "task.template")
    return whole


def escaped(text: str) -> str:
    """As it is written in a template.

    >>> escaped("{text}")
    '{{text}}'
    """
    return text.replace("{", "{{").replace("}", "}}")


def _tokens(material: Material, text: str) -> int:
    return len(material.base.tokenizer(text, add_special_tokens=False)["input_ids"])
