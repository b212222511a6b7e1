"""Prompts that the loaded model writes itself: it goes on with a list of good ones, or says one in other words.

The list stands in order, the best last, as in optimisation by prompting (Yang et al. 2023, arXiv:2309.03409); asking a
model for its own instructions is APE's (Zhou et al. 2022, arXiv:2211.01910). Much of what a small model writes cannot
be used; it is dropped, and counted by reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunery.data import cloze, render
from tunery.decide.prompt_scores import Material
from tunery.errors import ConfigError
from tunery.generate.engine import Sampling, generate
from tunery.protocols import Message

LONGEST, SHORTEST = 300, 10
"""Characters of a prompt."""
_SAMPLING = {"max_new_tokens": 48, "temperature": 0.8, "top_p": 0.95}
_LIST = {
    "cloze": "Templates that ask which label a text has, each with {text} and, at its end, {label}. Labels: {labels}",
    "instruct": "Instructions for an assistant that answers questions well",
}
_REWRITE = {
    "cloze": "Write this template in other words. Keep {text} and {label} as they are, {label} at the end.",
    "instruct": "Write this instruction for an assistant in other words.",
}
_NUMBER = re.compile(r"^\s*(?:[-*]|\d+[.):])\s+")
_ENDING = re.compile(r"[\s.!?,;:。！？，；：\"'`]*")


def propose(
    material: Material, good: Sequence[str], count: int, seed: int
) -> tuple[list[tuple[str, str]], Counter[str]]:
    """``count`` answers of the model → (origin, prompt) of those that can be used, and the others by reason.

    Args:
        good: prompts in order, the best last.
    """
    if material.base.family != "decoder" or not good or not count:
        return [], Counter()
    asked = _prompts(material, good, count)
    tokenizer = material.base.tokenizer
    lines = tokenizer("\n", add_special_tokens=False)["input_ids"][-1:]
    stop = [*lines, *material.task.stop_ids(tokenizer)]
    sampling = Sampling(seed=seed, **_SAMPLING)  # type: ignore[arg-type]
    answers = generate(material.model, [ids for _, ids in asked], stop, sampling)
    found: list[tuple[str, str]] = []
    dropped: Counter[str] = Counter()
    seen = {_plain(text) for text in good}
    for (origin, _), ids in zip(asked, answers, strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        try:
            made = usable(text, material)
        except ConfigError as error:
            dropped[error.problem] += 1
            continue
        if _plain(made) in seen:
            dropped["known already"] += 1
            continue
        seen.add(_plain(made))
        found.append((origin, made))
    return found, dropped


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _prompts(material: Material, good: Sequence[str], count: int) -> list[tuple[str, list[int]]]:
    """Origin and ids of what the model is asked; every other answer is a paraphrase where it knows how to chat."""
    tokenizer, name = material.base.tokenizer, material.task.name
    labels = ", ".join(getattr(material.task, "labels", ()))
    listed = "".join(f"{number}. {_one_line(text)}\n" for number, text in enumerate(good, 1))
    text = f"{_LIST[name].replace('{labels}', labels)}\n\n{listed}{len(good) + 1}."
    going_on = ("proposed", render.encode_text(text, tokenizer)[0])
    if not tokenizer.chat_template:
        return [going_on] * count
    found = []
    for number in range(count):
        if number % 2 == 0:
            found.append(going_on)
            continue
        one = _one_line(good[-1 - number // 2 % len(good)])
        messages = (Message("user", f"{_REWRITE[name]}\n\n{one}"),)
        found.append(("paraphrase", render.prompt_ids(messages, tokenizer, _template(tokenizer))))
    return found


def _template(tokenizer: Any) -> str:
    from tunery.data import templates

    return templates.find(templates.MODEL, tokenizer)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def usable(text: str, material: Material) -> str:
    """A prompt out of what a model wrote. Raises ConfigError with the reason if it is none."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    line = _NUMBER.sub("", lines[0] if lines else "").strip().strip("\"'`“”").strip()
    line = line.replace("\\n", "\n")
    if not SHORTEST <= len(line) <= LONGEST:
        raise ConfigError("too short" if len(line) < SHORTEST else "too long")
    if material.task.name != "cloze":
        if "{" in line or "<|" in line:
            raise ConfigError("not plain text")
        return line
    return _template_of(line, material)


def _template_of(line: str, material: Material) -> str:
    if "[soft:" in line:
        raise ConfigError("soft tokens")
    begun, mark, rest = line.rpartition("{label}")
    if mark and _ENDING.fullmatch(rest) and material.base.family == "decoder":
        line = begun + mark  # what follows the label a causal model would have to read once for each word
    try:
        parsed = cloze.parse(line)
        words = material.task.labels
        cloze.word_ids(parsed, words[:1], material.base.tokenizer)
    except ConfigError as error:
        raise ConfigError("an unknown field" if error.problem.startswith("unknown field") else error.problem) from None
    if parsed.goes_on and material.base.family == "decoder":
        raise ConfigError("text behind the label")
    missing = cloze.parse(str(material.task.default)).fields - parsed.fields
    if missing:
        raise ConfigError(f"no {{{min(missing)}}} in the template")
    return line
