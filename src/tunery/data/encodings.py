"""Which encoding a text file has, and how sure that is.

UTF-8 where the lines with other than ASCII characters are UTF-8, even if some of them are broken: those are bad rows,
not another encoding. Otherwise the encoding in which the text looks most like writing (charset-normalizer's measure).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tunery.errors import ConfigError

SURE = 0.8
"""Confidence below which the notes say that it is a guess."""
_LEAST = 0.4  # confidence below which a file is taken for UTF-8 with broken rows
_SAMPLE = 1 << 15  # bytes of lines with other than ASCII characters that are looked at
_CHAOS = 0.4  # charset-normalizer's measure: from here on nobody could read it
_CLEAN = 0.8  # share of the lines that must be without errors
_NAMES = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 (little-endian, no byte order mark)",
    "utf-16-be": "UTF-16 (big-endian, no byte order mark)",
    "utf-32": "UTF-32",
    "gb18030": "GB18030",
    "big5": "Big5",
    "cp950": "Big5 (cp950)",
    "big5hkscs": "Big5-HKSCS",
    "cp932": "Shift JIS (cp932)",
    "cp949": "EUC-KR (cp949)",
    "euc_jp": "EUC-JP",
}
_CHINESE = ("gb18030", "big5", "cp950", "big5hkscs")
_CANDIDATES = (*_CHINESE, "cp1252", "cp1251", "koi8_r", "cp1250", "cp932", "euc_jp", "cp949")
"""Of two that give the same text the earlier one is meant."""
_WESTERN = set("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüœŒŸšžŠŽ")
_WESTERN |= set("‘’“”„‚–—…•«»‹›€£§°©®™¿¡ºª·½¼²³´\xa0")
_FREQUENT = set("，。、的一是不了在人有我他这为之大来以个中上们到说国和地也子时要于就下得可你年這為來個們說國時於會好")
"""A tenth of Chinese writing and more, but hardly any of what another encoding looks like as Chinese."""
_KOREAN = set("이다는을를에가의고하서도로지은한어요기니사")
_JAPANESE = ("cp932", "euc_jp")
_WRITING = [("\xa0", "\u04ff"), ("\u2010", "\u2030"), ("\u3000", "\u30ff")]
_WRITING += [("\u4e00", "\u9fff"), ("\uac00", "\ud7a3"), ("\uff01", "\uff5e")]
"""Ranges: European, punctuation, kana, Chinese, Korean, full width."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ASCII = bytes([*b"\t\r\n", *range(0x20, 0x7F)])
_LONG = 1 << 12
_BETWEEN = re.compile(rb'[ "\',;]')
_MULTIBYTE = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the bytes of a text file mean."""

    codec: str = "utf-8"
    confidence: float = 1.0
    told: bool = False
    """Whether the user said so."""

    @property
    def name(self) -> str:
        """As shown to the user."""
        return _NAMES.get(self.codec, self.codec)

    def note(self, file: str) -> str:
        """What to tell about a file that was read so; empty for what goes without saying."""
        if self.codec == "utf-8" or self.told:
            return ""
        unsure = "" if self.confidence >= SURE else ", a guess"
        return (
            f"{file}: read as {self.name} (confidence {self.confidence:.2f}{unsure}; "
            "data.encoding=NAME to say otherwise)"
        )


UTF8 = Encoding()


def named(name: str) -> Encoding:
    """The encoding that ``data.encoding`` names. Raises ConfigError for what is no encoding of text."""
    try:
        found = codecs.lookup(name.strip().replace(" ", "-"))
        "a".encode(found.name)  # base64 and the like are codecs too, of other things
    except (LookupError, ValueError, TypeError):
        hint = "for example utf-8, gb18030, big5, utf-16, cp1252"
        raise ConfigError(f"unknown encoding {name!r}", hint, "data.encoding") from None
    plain = {"gbk": "gb18030", "gb2312": "gb18030", "utf-8-sig": "utf-8", "ascii": "utf-8"}  # those hold all of these
    return Encoding(plain.get(found.name, found.name), told=True)


def by_mark(head: bytes) -> Encoding | None:
    """The encoding whose byte order mark stands at the beginning."""
    return next((Encoding(codec) for mark, codec in _MARKS if head.startswith(mark)), None)


def utf16(head: bytes) -> Encoding | None:
    """UTF-16 without a mark: it has zero bytes, and read so it is what writing is made of."""
    zeros = head.count(0)
    if len(head) < 4 or not zeros:
        return None
    if _decodes(head, "utf-8") and zeros < 0.4 * len(head):
        return None  # text with stray zero bytes; ASCII in UTF-16 is zero bytes by half
    if len(head) - len(head.translate(None, _ASCII)) > 0.75 * len(head):
        return None  # so is text with broken bytes too: two ASCII characters would make a Chinese one
    head = head[: len(head) // 2 * 2]
    share, codec = max((_usual(head.decode(codec, "replace")), codec) for codec in ("utf-16-be", "utf-16-le"))
    return Encoding(codec, round(share, 2)) if share > 0.9 else None


def _usual(text: str) -> float:
    """Share of characters that writing is made of; bytes that are paired by mistake come out all over Unicode."""
    found = sum(" " <= c <= "~" or c in "\t\r\n" or any(first <= c <= last for first, last in _WRITING) for c in text)
    return found / len(text)


class Sample:
    """Lines with other than ASCII characters, gathered from a file until there are enough of them."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size >= _SAMPLE

    def add(self, chunk: bytes) -> None:
        if chunk.isascii():
            return
        for line in chunk.splitlines():
            # an array may be all on one line; these bytes are never half of a character
            for part in _BETWEEN.split(line) if len(line) > _LONG else [line]:
                if not part.isascii() and not self.full:
                    self.lines.append(part[:_LONG])
                    self._size += len(part[:_LONG])


def detect(lines: Iterable[bytes]) -> Encoding:
    """The encoding of lines that all have bytes beyond ASCII."""
    lines = list(lines)
    if not lines or 2 * sum(map(_is_utf8, lines)) >= len(lines):
        return UTF8
    found = sorted(
        (result for codec in _candidates(lines) if (result := _tried(codec, lines))), key=lambda result: result.rank
    )
    if not found:
        return UTF8
    best = found[0]
    rivals = [result for result in found[1:] if result.text != best.text]
    confidence = best.confidence
    if rivals and rivals[0].rank - best.rank < 0.02:
        confidence *= 0.6  # two that look equally good
    return Encoding(best.codec, round(confidence, 2)) if confidence >= _LEAST else UTF8


def _is_utf8(line: bytes) -> bool:
    """Whether a line is UTF-8 but for a few broken places."""
    try:
        line.decode("utf-8")
        return True
    except UnicodeDecodeError:
        pass
    broken = len(line.decode("utf-8", "replace")) - len(line.decode("utf-8", "ignore"))
    whole = sum(character > "\x7f" for character in line.decode("utf-8", "ignore"))
    # half a character is UTF-8 as well: a text that was cut at a number of bytes
    halves = sum(_begun(part) for part in _MULTIBYTE.findall(line))
    return whole >= 3 * broken or (broken == halves and not whole)


def _begun(part: bytes) -> bool:
    """Whether bytes are the beginning of one character of three or four bytes."""
    try:
        part.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start == 0 and len(part) > 1
    return False


@dataclass(frozen=True, slots=True)
class _Tried:
    codec: str
    text: str
    chaos: float
    coherence: float
    known: bool
    """Whether it has what every text in the language of that encoding has."""
    confidence: float

    @property
    def rank(self) -> float:
        """The less, the better."""
        return self.chaos - 0.05 * self.coherence - 0.1 * self.known


def _candidates(lines: list[bytes]) -> list[str]:
    """Encodings to try; of the variants of Big5 the one that has most of the characters."""
    big5 = max(_CHINESE[1:], key=lambda codec: sum(bool(_whole(line, codec)) for line in lines))
    return [codec for codec in _CANDIDATES if codec == big5 or codec not in _CHINESE[1:]]


def _tried(codec: str, lines: list[bytes]) -> _Tried | None:
    """How much the lines look like writing in an encoding; None: not at all."""
    from charset_normalizer import from_bytes

    clean = [whole for line in lines if (whole := _whole(line, codec))]
    if not clean or len(clean) < _CLEAN * len(lines):
        return None
    raw = b"\n".join(clean)
    text = raw.decode(codec)
    match = from_bytes(
        raw, steps=8, chunk_size=1024, threshold=0.9 if codec in _CHINESE else _CHAOS, cp_isolation=[codec]
    ).best()
    odd = [character for character in text if character > "\x7f"]
    if match is None or not odd or (codec == "cp1252" and sum(c in _WESTERN for c in odd) < 0.9 * len(odd)):
        return None
    # formulas and Latin words within Chinese look like chaos; words that every Chinese text has do not
    known = sum(map(_marker(codec), odd)) > 0.1 * len(odd)
    chaos = match.chaos / 4 if known else match.chaos
    if chaos > _CHAOS:
        return None
    # the fewer characters speak for it, the less is known
    confidence = (1 - chaos) * len(clean) / len(lines) * len(odd) / (len(odd) + 1)
    return _Tried(codec, text, chaos, match.coherence, known, confidence)


def _marker(codec: str) -> Callable[[str], bool]:
    """What tells a character that is frequent in the language of an encoding, and seldom comes about by mistake."""
    if codec in _CHINESE:
        return _FREQUENT.__contains__
    if codec in _JAPANESE:
        return lambda character: "ぁ" <= character <= "ん"
    return _KOREAN.__contains__


def _whole(line: bytes, codec: str) -> bytes:
    """The line without half a character at its end; empty if it is not in that encoding."""
    try:
        line.decode(codec)
    except UnicodeDecodeError as error:
        return line[: error.start] if len(line) >= _LONG and error.start >= len(line) - 3 else b""
    return line


def _decodes(line: bytes, codec: str) -> bool:
    """Whether all of it can be decoded, but for half a character at the end."""
    try:
        line.decode(codec)
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start >= len(line) - 3
    return True
