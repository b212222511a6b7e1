"""Model folders from Hugging Face and ModelScope; nothing but safetensors and text is fetched.

What the cache has whole is used without asking anybody. Otherwise a short question comes first, with a
deadline: where there is no network, the user hears it within seconds.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tunery.errors import ModelError, ResourceError, TuneryError
from tunery.models import folder as folders
from tunery.models.convert import first_line
from tunery.models.quiet import quiet, quiet_modelscope

T = TypeVar("T")

DEADLINE = 6.0
"""Seconds for a hub to say whether it has the model."""
ALLOW = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
ELSEWHERE = ["*/*.safetensors", "consolidated*", "onnx/*", "openvino/*", "coreml/*", "original/*"]
IGNORE = [*ELSEWHERE, ".*"]


def within(seconds: float, ask: Callable[[], T]) -> T:
    """``ask()`` in a thread of its own, given up after ``seconds`` (looking up a name has no timeout).

    Raises TimeoutError, and whatever ``ask`` raises.
    """
    answer: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(ask())
        except BaseException as error:  # handed to the caller
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise TimeoutError("no answer")
    return answer[0]


def fetch(repo: str, revision: str | None, local_only: bool) -> Path:
    """The folder of a Hugging Face model, from the cache or downloaded.

    Raises ModelError: no network or offline and not in the cache, no such model, gated, only pickles.
    ResourceError: disk.
    """
    from huggingface_hub import HfApi, constants, get_session, snapshot_download

    quiet()
    found = _cached(repo, revision)
    if found is not None:
        return found
    if local_only or constants.HF_HUB_OFFLINE:
        raise ModelError(f"{repo} is not in the cache, and tunery is offline", "unset HF_HUB_OFFLINE", "model.name")
    get_session().timeout = 2 * DEADLINE  # the library sets none for its listings
    try:
        info = within(DEADLINE, lambda: HfApi().model_info(repo, revision=revision, timeout=DEADLINE / 2))
    except Exception as error:
        raise _hub_error(error, repo, revision, constants.ENDPOINT) from error
    _check_listing(repo, [sibling.rfilename for sibling in info.siblings or []])
    try:
        path = snapshot_download(repo, revision=revision, allow_patterns=ALLOW, ignore_patterns=IGNORE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ResourceError("cannot write: no space left", "free some disk space, or set HF_HOME") from error
        raise _broken(repo, error) from error
    except Exception as error:
        raise _broken(repo, error) from error
    return Path(path)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the local cache, if it is whole."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=ALLOW, ignore_patterns=IGNORE, local_files_only=True
            )
        )
        folders.check(path)
    except (OSError, ValueError, TuneryError):
        return None
    return path


def _check_listing(repo: str, names: list[str]) -> None:
    """Refuse before downloading what could not be loaded."""
    top = [name for name in names if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return
    if any(Path(name).match(pattern) for name in top for pattern in folders.PICKLES):
        raise ModelError(f"{repo} has only pickled weights, no safetensors", folders.TO_CONVERT, "model.name")
    if any(name.endswith(".gguf") for name in top):
        raise ModelError(
            f"{repo} has GGUF files only", "download one of them and name that file: model=FILE.gguf", "model.name"
        )
    raise ModelError(f"{repo} has no weights", "is it the name of a model?", "model.name")


def _hub_error(error: Exception, repo: str, revision: str | None, endpoint: str) -> ModelError:
    """What went wrong, in the user's words."""
    from huggingface_hub import errors

    kinds: list[tuple[type[Exception], str, str]] = [
        (
            errors.GatedRepoError,
            f"{repo} is gated",
            "ask for access on its page, then: hf auth login",
        ),
        (
            errors.RepositoryNotFoundError,
            f"no model {repo!r}, neither a local folder nor at {endpoint}",
            "check the spelling; if it is private: hf auth login",
        ),
        (
            errors.RevisionNotFoundError,
            f"{repo} has no revision {revision!r}",
            "name a branch, tag or commit of it",
        ),
        (errors.HFValidationError, f"{repo!r} is not a model name", "it looks like org/name"),
        (errors.HfHubHTTPError, f"{endpoint} cannot give {repo}: {first_line(error)}", "try again later"),
    ]
    for kind, problem, hint in kinds:
        if isinstance(error, kind):
            where = "model.revision" if kind is errors.RevisionNotFoundError else "model.name"
            return ModelError(problem, hint, where)
    return ModelError(
        f"cannot reach {endpoint} to fetch {repo}: {first_line(error)}",
        "check the network, set HF_ENDPOINT to a mirror, or use a pack: smollm2, minilm",
        "model.name",
    )


def _broken(repo: str, error: Exception) -> ModelError:
    return ModelError(
        f"the download of {repo} broke off: {first_line(error)}", "run it again; it goes on where it stopped"
    )


def modelscope(repo: str, revision: str | None, local_only: bool) -> Path:
    """The folder of a ModelScope model, from its cache or downloaded.

    Raises ModelError: package missing, no network, no such model, only pickles.
    """
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ModelError(
            "ModelScope models need the package modelscope", "pip install 'tunery[modelscope]'", "model.name"
        ) from None
    try:
        # Whether all is there is for the manifest of the package to know; what is missing shows in the check.
        with quiet_modelscope():
            path = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        folders.check(path)
        return path
    except Exception as error:
        if local_only:
            raise ModelError(
                f"{repo} is not in ModelScope's cache", "run it once with network", "model.name"
            ) from error
    reach_modelscope(repo)
    try:
        with quiet_modelscope():
            # Hidden files are not named here: the package reads ".*" as everything.
            path = snapshot_download(repo, revision=revision, allow_patterns=ALLOW, ignore_patterns=ELSEWHERE)
    except Exception as error:
        raise ModelError(
            f"ModelScope cannot give {repo}: {first_line(error)}", "check its name and the network", "model.name"
        ) from error
    return Path(path)


def modelscope_endpoint() -> str | None:
    """What the package's variables name, the newer first; None: its own two sites."""
    domain = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or ""
    return (domain.rstrip("/") if "://" in domain else f"https://{domain}") if domain else None


def reach_modelscope(repo: str) -> None:
    """Raises ModelError if the site does not answer; the package itself would try for minutes."""
    import urllib.error
    import urllib.request

    address = modelscope_endpoint() or "https://www.modelscope.cn"
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310
    try:
        within(DEADLINE, lambda: urllib.request.urlopen(request, timeout=DEADLINE / 2).close())  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers
    except Exception as error:
        raise ModelError(
            f"cannot reach {address} to fetch {repo}: {first_line(error)}", "check the network", "model.name"
        ) from error
