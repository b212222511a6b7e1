"""Prompts that may be tried: what they change in the configuration, where they come from, and those written by hand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunery.config import yaml12
from tunery.errors import ConfigError

WHERE = "--templates"
BY_HAND = ("config", "given", "hand")
"""Origins of prompts that people wrote."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt as changes to the section ``task`` of a configuration."""

    origin: str
    """``config``, ``given``, ``hand``; ``proposed``, ``paraphrase`` (by the model), ``words``, ``shots``."""
    task: Mapping[str, Any] = field(hash=False)
    longer: int = 0
    """Tokens that its examples take, beside what ``data.max_length`` leaves for a row."""

    @property
    def key(self) -> str:
        """Equal for equal prompts, wherever they come from."""
        text = json.dumps({key: value for key, value in self.task.items() if value}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def by_hand(self) -> bool:
        return self.origin in BY_HAND

    def changed(self, origin: str, longer: int | None = None, **task: Any) -> Candidate:
        return Candidate(origin, {**self.task, **task}, self.longer if longer is None else longer)

    def plain(self) -> dict[str, Any]:
        return {"origin": self.origin, "task": dict(self.task), "longer": self.longer}


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of equal ones."""
    return list({candidate.key: candidate for candidate in reversed(list(candidates))}.values())[::-1]


# ------------------------------------------------------------------------------------------ written by hand

TOPICS = (
    "Text: {text}\nLabel: {label}",
    "{text}\nCategory: {label}",
    "Input: {text} | Output: {label}",
    "Text: {text}\nQuestion: What is this text about?\nAnswer: {label}",
    "Classify the following text.\nText: {text}\nClass: {label}",
)
SENTIMENTS = (
    "Review: {text} | Sentiment: {label}",
    "{text} It was {label}",
    "{text}\nAll in all, it was {label}",
    "Text: {text}\nThe sentiment of this text is {label}",
)
PAIRS = (
    "Text: {text}\nText 2: {text_pair}\nLabel: {label}",
    "{text} | {text_pair} | Relation: {label}",
    "First: {text}\nSecond: {text_pair}\nAnswer: {label}",
    "Given that {text}\nis it true that {text_pair}\nAnswer: {label}",
)
CHINESE = {
    "topics": ("文本：{text}\n类别：{label}", "{text}\n这段话的类别是：{label}", "输入：{text}\n标签：{label}"),
    "sentiments": ("评论：{text}\n情感：{label}", "{text}总之，感觉很{label}", "{text}\n这条评论是{label}"),
    "pairs": ("文本1：{text}\n文本2：{text_pair}\n关系：{label}",),
}
KNOWN_WORDS = {
    "positive": (["great", "good"], ["好", "满意"]),
    "negative": (["terrible", "bad"], ["差", "失望"]),
    "neutral": (["okay", "average"], ["一般"]),
}
"""Words for labels of sentiment, English and Chinese."""
ALIASES = {"pos": "positive", "neg": "negative", "正面": "positive", "负面": "negative", "中性": "neutral"}
SYSTEMS = (
    "",
    "You are a helpful assistant.",
    "Answer the question briefly and correctly.",
    "Give only the answer, without any explanation.",
    "You are an expert. Answer as precisely as you can.",
    "Answer in one short sentence.",
)
CHINESE_SYSTEMS = (
    "",
    "你是一个乐于助人的助手。",
    "请简短、准确地回答问题。",
    "只给出答案，不要解释。",
    "请用一句话回答。",
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether a third of the characters are Chinese.

    >>> is_chinese(["很好 ok"]), is_chinese(["good"])
    (True, False)
    """
    whole = "".join(texts)
    return 3 * len(_HAN.findall(whole)) > len(whole.replace(" ", ""))


def templates(labels: Sequence[str], pair: bool, chinese: bool) -> list[str]:
    """Written by hand for data like this."""
    feelings = known_words(labels, chinese) is not None
    kinds = ["pairs"] if pair else [*(["sentiments"] if feelings else []), "topics"]
    english = {"topics": TOPICS, "sentiments": SENTIMENTS, "pairs": PAIRS}
    return [text for kind in kinds for text in (*(CHINESE[kind] if chinese else ()), *english[kind])]


def known_words(labels: Sequence[str], chinese: bool) -> dict[str, list[str]] | None:
    """Words people use for these labels, if all are labels of sentiment.

    >>> known_words(["neg", "positive"], False)
    {'neg': ['terrible', 'bad'], 'positive': ['great', 'good']}
    """
    names = [ALIASES.get(label.lower(), label.lower()) for label in labels]
    if len(set(names)) < len(names) or not set(names) <= KNOWN_WORDS.keys():
        return None
    return {label: list(KNOWN_WORDS[name][chinese]) for label, name in zip(labels, names, strict=True)}


# -------------------------------------------------------------------------------------- given by the user


def read(path: Path) -> list[str]:
    r"""Prompts of a file: one a line (``\n`` for a line break), or a YAML or JSON list, alone or under ``prompts:``.

    Raises ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot be read: {problem}", f"name a text file behind {WHERE}", str(path)) from None
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        lines = [line.strip().replace("\\n", "\n") for line in text.splitlines()]
        found: Any = [line for line in lines if line and not line.startswith("#")]
    else:
        try:
            found = yaml12.load(text)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"cannot be read as YAML: {problem}", "quote texts with braces", str(path)) from None
        found = found.get("prompts") if isinstance(found, dict) else found
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise ConfigError("no list of prompts", "write one prompt a line, or a YAML list of texts", str(path))
    return found
