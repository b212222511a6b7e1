"""Addresses and numbers of people."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Cleaner, Strict

_NAME = r"[A-Za-z0-9._%+-]"
_URL = re.compile(
    r"(?:https?://|ftp://|\bwww\.)[A-Za-z0-9](?:[\w.~:/?#@!$&()*+,;=%-]*[\w/~#=&-])?", re.IGNORECASE | re.ASCII
)
_EMAIL = re.compile(rf"(?<!{_NAME}){_NAME}{{1,64}}@[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}}){{1,8}}")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+(?=(?:[ .()-]{0,2}\d){8})\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +49 30 1234567, +86 138 1234 5678
    r"|(?:86[- ]?)?1[3-9]\d(?:[- ]?\d{4}){2}"  # Chinese mobile numbers
    r"|\(?0\d{2,3}\)?[- ]?\d{3,4}[- ]?\d{4}"  # with an area code: 010-62345678, (0755) 8634 5678
    r"|[48]00[- ]\d{3,4}[- ]\d{3,4}"
    r"|\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}[-.]\d{3}[-.]\d{4}"  # (555) 010-1234, 555-010-1234
    r")(?![\w-])",
    re.ASCII,
)


class Mask(Cleaner):
    """Numbers are masked where they have the form of a telephone number, not wherever digits stand: ids, dates and
    prices stay. Masking is a help, no guarantee that nothing personal is left.
    """

    class Config(Strict):
        name: Literal["mask"] = "mask"
        url: bool = Field(True, description="addresses of the web → [URL]")
        email: bool = Field(True, description="e-mail addresses → [EMAIL]")
        phone: bool = Field(True, description="telephone numbers → [PHONE]")

    summary = "web addresses, e-mail addresses and telephone numbers become [URL], [EMAIL], [PHONE]"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        forms = ((config.url, _URL, "[URL]"), (config.email, _EMAIL, "[EMAIL]"), (config.phone, _PHONE, "[PHONE]"))
        self._masks = [(form, word) for wanted, form, word in forms if wanted]
        if not self._masks:
            raise ConfigError("step mask has nothing to mask", "set url, email or phone to true", "data.clean")

    def clean(self, text: str) -> str:
        for form, word in self._masks:
            text = form.sub(word, text)
        return text
