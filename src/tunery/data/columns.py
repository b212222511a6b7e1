"""Which format a table has, and which of its columns is which.

A mapping (``data.columns``) always wins. Without one, common other names of a column (``review`` for
``text``, ``标签`` for ``label``) are understood where only one column can be meant, and that is said.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tunery import registry
from tunery.errors import ConfigError, DataError
from tunery.protocols import Format

SYNONYMS: dict[str, tuple[str, ...]] = {
    "text": (
        *("review", "sentence", "content", "comment", "body", "document", "tweet", "utterance", "question", "query"),
        *("sentence1", "premise", "question1", "text1", "text_a", "sentence_a"),
        *("文本", "内容", "评论", "句子", "正文", "文本1", "句子1"),
    ),
    "text_pair": (
        *("sentence2", "hypothesis", "question2", "text2", "text_b", "sentence_b"),
        *("文本2", "句子2"),
    ),
    "label": (
        *("labels", "stars", "rating", "score", "sentiment", "category", "intent", "target", "class", "topic"),
        *("标签", "类别", "分类", "情感", "意图"),
    ),
    "question": ("query", "问题", "提问"),
    "answer": ("reply", "答案", "回答", "回复"),
    "answers": ("answer",),
    "context": ("passage", "上下文"),
    "words": ("tokens", "characters", "chars", "字", "词"),
    "tags": ("ner_tags", "labels", "bio", "标注"),
    "prompt": (
        *("input", "source", "src", "question", "instruction", "article", "input_text", "source_text"),
        *("提示", "原文", "输入"),
    ),
    "response": (
        *("output", "completion", "target", "tgt", "summary", "highlights", "target_text", "output_text"),
        *("响应", "译文", "摘要", "输出"),
    ),
    "chosen": ("better", "preferred"),
    "rejected": ("worse",),
    "instruction": ("指令",),
    "input": ("输入",),
    "output": ("输出",),
    "system": ("系统",),
    "history": ("历史",),
    "messages": ("conversation", "conversations", "dialogue", "对话", "消息"),
}
_GUESS = 0.05  # what a guessed column costs a format, so that exact names win
_TYPO = 0.75  # likeness from which a name is taken for a misspelt one: never used without asking


@dataclass(frozen=True, slots=True)
class Columns:
    """How a table is to be read."""

    format: str
    rename: dict[str, str] = field(default_factory=dict)
    """Name in the file → name tunery knows, for the columns that need it."""
    notes: list[str] = field(default_factory=list)
    """What was decided without being told, in words for the user."""


@dataclass(slots=True)
class _Fit:
    """One format tried on a table."""

    name: str
    score: float = 0.0
    rename: dict[str, str] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    """Name tunery knows → column taken for it by a common other name."""
    missing: list[str] = field(default_factory=list)
    unclear: dict[str, list[str]] = field(default_factory=dict)
    """Needed column → the columns of the file that could all be it."""


def sniff(columns: Iterable[str], mapping: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
    """The format that fits best, and why.

    Raises DataError if none or several fit, ConfigError for a mapping of an unknown column.
    """
    found = resolve(list(columns), mapping or {})
    return found.format, found.notes


def resolve(
    columns: Sequence[str],
    mapping: Mapping[str, str],
    *,
    name: str | None = None,
    allowed: Sequence[str] | None = None,
    need_target: bool = True,
    where: str = "",
) -> Columns:
    """Choose the format (or check the one that is named) and find its columns.

    Args:
        columns: as they are called in the file.
        mapping: ``data.columns``, {name tunery knows: name in the file}.
        name: ``data.format``; sniffed if None.
        allowed: formats to choose from, those that a task takes; all if None.
        need_target: without, the columns that hold answers may be absent (rows to predict).
        where: the row whose columns these are, for messages.

    Raises DataError: no format fits, several fit equally, a column is missing, or a mapped column is not in
    the file. Raises ConfigError: ``mapping`` names a column that no format knows, or an unknown format.
    """
    _check_mapping(mapping)
    if name and name not in registry.names("format"):
        raise ConfigError(f"unknown format {name!r}", registry.near(name, registry.names("format")), "data.format")
    candidates = [name] if name else list(registry.names("format") if allowed is None else allowed)
    fits = [_fit(candidate, columns, mapping, need_target) for candidate in candidates]
    if name:
        best = fits[0]
        if best.missing:
            raise _missing(best, columns, mapping, where)
    else:
        best, *others = _ranked(fits, columns, mapping, where)
    if best.unclear:
        raise _unclear(best, where)
    notes = _notes(best, columns, mapping)
    return Columns(best.name, best.rename, notes if name else [_reason(best, others, columns), *notes])


def _ranked(fits: Sequence[_Fit], columns: Sequence[str], mapping: Mapping[str, str], where: str) -> list[_Fit]:
    """The formats that fit, the best first.

    Raises DataError: none fits, several fit equally, a mapped column is not in the file.
    """
    wanted = {known for fit in fits for known in _format(fit.name).columns}
    for known, column in mapping.items():
        if known in wanted and column not in columns and known not in columns:
            raise _unmapped(known, column, columns, where)
    ranked = sorted((fit for fit in fits if fit.score > 0), key=lambda fit: -fit.score)
    if not ranked:
        raise _no_fit(fits, columns, mapping, where)
    equal = [fit.name for fit in ranked if ranked[0].score - fit.score < 1e-9]
    if len(equal) > 1:
        raise DataError(
            f"the columns {_quoted(columns)} fit several formats: {', '.join(equal)}",
            f"choose one, for example data.format={equal[0]}",
            where,
        )
    return ranked


def _format(name: str) -> type[Format]:
    return registry.get("format", name)  # type: ignore[no-any-return]


def needed(name: str, need_target: bool = True) -> tuple[str, ...]:
    """Columns that a format cannot do without. Raises ConfigError for an unknown format."""
    chosen = _format(name)
    return chosen.columns if need_target else tuple(c for c in chosen.columns if c not in chosen.targets)


def familiar(column: str) -> bool:
    """Whether a format has a column of that name, or one that is commonly called so."""
    plain = _plain(column)
    named = {name for chosen in map(_format, registry.names("format")) for name in (*chosen.columns, *chosen.optional)}
    return plain in named or any(plain in others for others in SYNONYMS.values())


def _check_mapping(mapping: Mapping[str, str]) -> None:
    formats = [_format(name) for name in registry.names("format")]
    known = sorted({column for chosen in formats for column in (*chosen.columns, *chosen.optional)})
    for key in mapping:
        if key not in known:
            raise ConfigError(f"no format has a column {key!r}", registry.near(key, known), f"data.columns.{key}")


def _fit(name: str, columns: Sequence[str], mapping: Mapping[str, str], need_target: bool) -> _Fit:
    """Find each column of a format: mapped, by its own name, or by a synonym that only one column bears."""
    chosen = _format(name)
    need = needed(name, need_target)
    wanted = [*chosen.columns, *chosen.optional]
    fit = _Fit(name)
    # a mapped column that is absent here (another split may call it by its own name) does not count
    mapped = {known: column for known, column in mapping.items() if known in wanted and column in columns}
    found = mapped | {known: known for known in wanted if known in columns and known not in mapped}
    for known in wanted:
        if known in found or known in mapping:
            continue
        free = [column for column in columns if column not in found.values()]
        same = [column for column in free if _plain(column) == known]
        others = same or [column for column in free if _plain(column) in SYNONYMS.get(known, ())]
        if len(others) == 1:
            found[known] = fit.guessed[known] = others[0]
        elif known in need:
            others = others or difflib.get_close_matches(known, free, cutoff=_TYPO)
            if others:
                fit.unclear[known] = others
    fit.rename = {column: known for known, column in found.items() if known != column}
    fit.missing = [known for known in need if known not in found and known not in fit.unclear]
    # one guessed column is too little to go by: {question, answers} is not a set of plain texts
    vague = set(need) <= {*fit.guessed, *fit.unclear} and len(need) == 1 < len(columns) and need_target
    if fit.missing or vague:
        return fit
    seen = {fit.rename.get(column, column) for column in columns} | set(fit.unclear)
    if not need_target:
        seen |= set(chosen.targets)
    fit.score = chosen().matches(seen) - _GUESS * (len(fit.guessed) + len(fit.unclear))
    return fit


def _plain(column: str) -> str:
    return column.strip().casefold()


def _quoted(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns))


def _reason(fit: _Fit, others: Sequence[_Fit], columns: Sequence[str]) -> str:
    """Why this format, and what else the table could be."""
    reason = f"format {fit.name}: the file has the columns {', '.join(_used(fit, columns))}"
    other = next((other for other in others if not other.unclear), None)
    if other is None:
        return reason
    read, task = ", ".join(_used(other, columns)), _format(other.name).task
    return f"{reason} (data.format={other.name} would read {read}, for task {task})"


def _used(fit: _Fit, columns: Sequence[str]) -> list[str]:
    """The columns that a format reads, as they are called in the file."""
    chosen = _format(fit.name)
    return [column for column in columns if fit.rename.get(column, column) in (*chosen.columns, *chosen.optional)]


def _notes(fit: _Fit, columns: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    chosen = _format(fit.name)
    notes = [chosen.note] if chosen.note else []
    for known, column in fit.guessed.items():
        notes.append(f"column {column!r} is read as {known} (data.columns.{known}=NAME if another is meant)")
    for known, column in mapping.items():
        if column not in columns:
            notes.append(f"data.columns.{known}={column}: no such column here")
    used = _used(fit, columns)
    if unused := [column for column in columns if column not in used]:
        notes.append(f"columns not used: {', '.join(unused)}")
    return notes


def _unclear(fit: _Fit, where: str) -> DataError:
    known, choices = next(iter(fit.unclear.items()))
    one = f"is the column {choices[0]!r} the {known}?"
    several = f"several columns could be the {known}: {_quoted(choices)}"
    advice = " ".join(f"data.columns.{key}={columns[0]}" for key, columns in fit.unclear.items())
    return DataError(one if len(choices) == 1 else several, f"say so with {advice}", where)


def _missing(fit: _Fit, columns: Sequence[str], mapping: Mapping[str, str], where: str) -> DataError:
    known = fit.missing[0]
    if known in mapping:
        return _unmapped(known, mapping[known], columns, where)
    close = difflib.get_close_matches(known, [column for column in columns if column not in fit.rename], 1, 0.6)
    name = close[0] if close else "NAME"
    return DataError(
        f"format {fit.name} needs the column {known!r}, the file has {_quoted(columns)}",
        f"{'did you mean ' + repr(name) + '? ' if close else ''}map it with data.columns.{known}={name}",
        where,
    )


def _unmapped(known: str, column: str, columns: Sequence[str], where: str) -> DataError:
    near = registry.near(column, list(columns))
    return DataError(f"the {known} should be in the column {column!r}, which is not in the file", near, where)


def _no_fit(fits: Sequence[_Fit], columns: Sequence[str], mapping: Mapping[str, str], where: str) -> DataError:
    needs = "; ".join(f"{fit.name}: {', '.join(_format(fit.name).columns)}" for fit in fits)
    tried = {fit.name for fit in fits}
    others = (_fit(name, columns, mapping, True) for name in registry.names("format") if name not in tried)
    other = max(others, key=lambda fit: fit.score, default=None)
    if other and other.score > 0:
        return DataError(
            f"the columns {_quoted(columns)} are of the format {other.name}; needed are {needs}",
            f"choose the task for that format (task={_format(other.name).task}), or map the columns with data.columns",
            where,
        )
    nearest = min(fits, key=lambda fit: len(fit.missing))
    guesses = [item for fit in fits for item in fit.guessed.items()]
    guesses += [(known, choices[0]) for fit in fits for known, choices in fit.unclear.items()]
    known, column = guesses[0] if guesses else (nearest.missing[0], "NAME")
    return DataError(
        f"no format fits the columns {_quoted(columns)}; needed are {needs}",
        f"map them, for example data.columns.{known}={column}",
        where,
    )
