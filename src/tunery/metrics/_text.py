"""Text helpers that the text metrics share: what a token, an equal answer and a contained fact are.

English follows the published evaluation scripts to the letter (SQuAD), so that numbers can be compared with
papers. Chinese has no spaces: one character is one token, and short answers follow CMRC 2018's script.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import Any

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff"
CJK = _HAN + _KANA
"""Characters of scripts written without spaces, as the inside of a regular expression's ``[...]``.
Korean is not among them: it separates words by spaces."""

_HAN_CHAR = re.compile(f"[{_HAN}]")
_CJK_CHAR = re.compile(f"[{CJK}]")
_OTHER_WORD = re.compile(rf"[^\W\d_{_HAN}{_KANA}]+|[{_KANA}]")
_CMRC_PIECE = re.compile("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+")
_CJK_RUN = re.compile(f"[{CJK}]+|[^{CJK}]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SPACE_BY_CJK = re.compile(rf"(?<=[{CJK}])\s+|\s+(?=[{CJK}])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_FULL_WIDTH = str.maketrans({chr(ord(c) + 0xFEE0): c for c in string.digits + string.ascii_letters})


def has_cjk(text: str) -> bool:
    """Whether any character belongs to a script without spaces (Han, kana).

    >>> has_cjk("iPhone 手机"), has_cjk("iPhone")
    (True, False)
    """
    return _CJK_CHAR.search(text) is not None


def is_chinese(text: str) -> bool:
    """Whether a text is mostly Chinese: at least as many Han characters as words of other scripts.

    Numbers count for neither side; a kana counts as a word, so that Japanese is not taken for Chinese.

    >>> is_chinese("用 PyTorch 训练"), is_chinese("Beijing (北京) is the capital of China"), is_chinese("42")
    (True, False, False)
    """
    han = len(_HAN_CHAR.findall(text))
    return han > 0 and han >= len(_OTHER_WORD.findall(text))


def tokens(text: str) -> list[str]:
    """Lower-case tokens without punctuation: Han and kana one by one, other scripts by word.

    Args:
        text: any text; full-width letters and digits become ordinary ones (NFKC).

    >>> tokens("PyTorch２.5，很快！")
    ['pytorch2', '5', '很', '快']
    >>> tokens("Don't stop: хорошо")
    ['don', 't', 'stop', 'хорошо']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    found: list[str] = []
    for in_word, characters in groupby(text, key=_in_word):
        if not in_word:
            continue
        for run in _CJK_RUN.findall("".join(characters)):
            found.extend(run if has_cjk(run) else [run])
    return found


def _in_word(character: str) -> bool:
    # Combining marks (category M) are no letters, yet Hindi, Thai or Arabic words would fall apart without them.
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def normalise_answer(text: str, chinese: bool | None = None) -> str:
    """The form in which short answers are compared.

    English as in SQuAD's ``evaluate-v1.1.py``: lower case, no ASCII punctuation, no articles, single spaces.
    Chinese in the spirit of CMRC 2018: NFKC, lower case, no punctuation, no white space; the point of a
    decimal number and ``%`` stay, for without them 3.5 equals 35.

    Args:
        text: an answer.
        chinese: which of the two; None looks at the text. Whoever compares two texts decides once for both,
            since "3.5" alone does not show its language.

    >>> normalise_answer("The Eiffel-Tower!")
    'eiffeltower'
    >>> normalise_answer("约 ３．５％，《红楼梦》。")
    '约3.5%红楼梦'
    """
    if chinese is None:
        chinese = is_chinese(text)
    if chinese:
        return "".join(_clean_chinese(text).split())
    text = text.lower().translate(_ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_tokens(text: str, chinese: bool | None = None) -> list[str]:
    """Tokens of an answer: SQuAD's for English, CMRC 2018's for Chinese.

    Those are single Han characters, and what NLTK makes of the text between them, after the marks that the
    script lists are gone. Beside the script, full-width digits and letters are ordinary ones here, and separators
    of thousands do not count.

    >>> answer_tokens("the Big Apple"), answer_tokens("苹果 iPhone 15。")
    (['big', 'apple'], ['苹', '果', 'iphone', '15'])
    """
    if chinese is None:
        chinese = is_chinese(text)
    if not chinese:
        return normalise_answer(text, chinese=False).split()
    from nltk.tokenize.destructive import NLTKWordTokenizer

    words = NLTKWordTokenizer()
    text = _THOUSANDS.sub("", text.translate(_FULL_WIDTH)).lower().translate(_CMRC_MARKS)
    return [token for piece in _CMRC_PIECE.findall(text) for token in words.tokenize(piece)]


def _clean_chinese(text: str) -> str:
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).lower()
    # "~" is a symbol to Unicode, but NFKC makes it out of the punctuation mark "～".
    kept = [" " if c == "~" or (unicodedata.category(c)[0] == "P" and c not in ".%") else c for c in text]
    return re.sub(r"(?<!\d)\.|\.(?!\d)", " ", "".join(kept))


def has_key(text: str, key: str) -> bool:
    """Whether a key fact stands in a text as a whole word, whatever the case and width of its letters.

    A number is never found inside a longer number: 47 is not in 147, 47.5, 1.47 or 47,500, but it is in
    "47." and "47, 48"; separators of thousands do not matter (47500 is in "47,500"). Chinese has no word
    boundaries: there any occurrence counts, and so does one beside a Chinese character ("共47人" has 47).

    >>> has_key("It took 47.", "47"), has_key("It took 47.5 s", "47"), has_key("Category", "cat")
    (True, False, False)
    >>> has_key("位于上海市，共 ４７ 人", "上海"), has_key("位于上海市，共 ４７ 人", "47")
    (True, True)
    """
    text, key = _fold(text), _fold(key)
    letter = f"[^\\W{CJK}]"  # a letter, digit or underscore that is not CJK
    before = after = ""
    if re.match(letter, key):
        before = rf"(?<!{letter})" + (r"(?<!\d\.)" if key[0].isdigit() else "")
    elif re.match(r"\.\d", key):
        before = r"(?<!\d)"
    if re.search(f"{letter}$", key):
        after = rf"(?!{letter})" + (r"(?!\.\d)" if key[-1].isdigit() else "")
    return re.search(before + re.escape(key) + after, text) is not None


def _fold(text: str) -> str:
    # Thousands first: NFKC turns the Chinese comma, which never groups digits, into an ASCII one.
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).casefold()
    return _SPACE_BY_CJK.sub("", " ".join(text.split()))


def accepted(reference: Any) -> tuple[str, ...]:
    """The accepted answers of one row; a bare string is one answer, not a tuple of characters.

    >>> accepted("yes"), accepted(("yes", "sure"))
    (('yes',), ('yes', 'sure'))
    """
    return (reference,) if isinstance(reference, str) else tuple(reference)


def answered(predictions: Iterable[str], references: Iterable[Any]) -> list[tuple[str, tuple[str, ...]]]:
    """(prediction, accepted answers) of the rows that have a reference; other rows cannot be scored.

    >>> answered(["a", "b"], [("x", "y"), ()])
    [('a', ('x', 'y'))]
    """
    pairs = ((text, accepted(reference)) for text, reference in zip(predictions, references, strict=True))
    return [(text, answers) for text, answers in pairs if answers]
