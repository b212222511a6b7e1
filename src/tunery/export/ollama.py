"""Ollama's Modelfile for a run: a template in Go's language, stops, and the sampling that tunery uses.

Ollama's own parser has no escapes: a value in triple quotes ends at the first three of them, and characters that it
does not hold for printable vanish. So every text of the template, the system prompt among them, is a string of Go's
with its quotes and rare characters escaped, which cannot end anything.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

from tunery.export.turns import Turns
from tunery.protocols import Message


def modelfile(gguf: str, turns: Turns, system: str | None, stops: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Args:
    gguf: file name beside the Modelfile.
    system: the system prompt that the run puts before conversations without one.
    stops: texts that end an answer.
    notes: lines of the comment at the beginning.
    """
    lines = [f"# {' '.join(note.split())}" for note in notes]
    lines += [f"FROM ./{gguf}", f'TEMPLATE """{template(turns, system)}"""']
    # Ollama's defaults are a temperature of 0.8 and a penalty of 1.1 on what was said before; tunery answers greedily
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if _plain(stop)]
    return "\n".join(lines) + "\n"


def template(turns: Turns, system: str | None) -> str:
    """The Go template that renders a conversation as the run's own does."""
    default = turns.default
    if system:
        default = turns.render([Message("system", system)], ask=False)
    branches = [("system", turns.system), ("user", turns.user), ("assistant", turns.assistant)]
    lines = [f"{{{{- if not .System }}}}{_text(default)}{{{{ end }}}}"] if default else []
    lines.append("{{- range $i, $_ := .Messages }}")
    word = "if"
    for role, around in branches:
        if around is not None:
            lines.append(f'{{{{- {word} eq .Role "{role}" }}}}{_text(around[0])}{{{{ .Content }}}}{_text(around[1])}')
            word = "else if"
    lines.append("{{- end }}")
    last = "eq (len (slice $.Messages $i)) 1"
    lines.append(f'{{{{- if and ({last}) (ne .Role "assistant") }}}}{_text(turns.ask)}{{{{ end }}}}')
    lines.append("{{- end }}")
    return "\n".join(lines)


def _text(text: str) -> str:
    """An action that prints a text, whatever is in it; nothing for no text."""
    return f"{{{{ {quoted(text)} }}}}" if text else ""


def quoted(text: str) -> str:
    """A string of Go's, with characters that Ollama's parser keeps, and never three quotes in a row."""
    return "".join(char if _printable(char) else _escaped(char) for char in json.dumps(text, ensure_ascii=False))


def _printable(char: str) -> bool:
    """As Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols and the ASCII space."""
    return char == " " or unicodedata.category(char)[0] in "LMNPS"


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _plain(text: str) -> bool:
    """Whether a value in plain quotes gets through Ollama's parser as it is."""
    return bool(text.strip()) and text == text.strip() and '"' not in text and all(map(_printable, text))
