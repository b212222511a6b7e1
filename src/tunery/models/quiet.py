"""Silence for the libraries below: their progress bars and warnings are not tunery's to show.

stdout carries one JSON object under ``--json``, stderr carries tunery's own log; what a user must know
about a model is raised as an error or logged by tunery itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def quiet_hub() -> None:
    """The same for downloads alone, without importing transformers."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    disable_progress_bars()
    hub_logging.set_verbosity_error()


@contextlib.contextmanager
def quiet_modelscope() -> Iterator[None]:
    """Around a download of modelscope_hub, imported before: it has no switch for its progress bars."""
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


@cache
def quiet() -> None:
    """Set it once per process, through the libraries' own switches; imports transformers."""
    from transformers.utils import logging as transformers_logging

    quiet_hub()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("gguf", "bitsandbytes", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|huggingface_hub|peft|bitsandbytes)(\.|$)")
