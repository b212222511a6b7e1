"""Text that was decoded with the wrong table, and characters in several spellings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Cleaner, Strict


class Unicode(Cleaner):
    """Repair by ftfy. HTML entities are left to ``html``; quotation marks and full-width characters stay as they are
    unless asked for, as they are right in Chinese.
    """

    class Config(Strict):
        name: Literal["unicode"] = "unicode"
        normal: Literal["NFC", "NFKC", "NFD", "NFKD"] = Field("NFC", description="normal form of Unicode")
        width: bool = Field(False, description="full-width letters and marks become half-width")
        quotes: bool = Field(False, description="curly quotation marks become straight")

    summary = "repair of text in the wrong encoding (cafÃ© → café), one normal form, no control characters"
    answers = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        try:
            import ftfy
        except ImportError:
            raise ConfigError("cleaning step unicode needs ftfy", "pip install 'tunery[clean]'", "data.clean") from None
        self._settings = ftfy.TextFixerConfig(
            unescape_html=False,
            explain=False,
            normalization=config.normal,
            fix_character_width=config.width,
            uncurl_quotes=config.quotes,
        )
        self._fix = ftfy.fix_text

    def clean(self, text: str) -> str:
        return str(self._fix(text, self._settings))
