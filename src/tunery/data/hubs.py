"""Data files of a dataset on Hugging Face or ModelScope: Parquet, JSON and CSV files are fetched, nothing is run.

``hf:OWNER/NAME[@REVISION][/FOLDER][/SPLIT]`` or ``…/FILE``. Which files belong to a split is told by their names. The
hub is asked each time what the newest version is; without network, the version fetched last is used, and that is said.
A file is fetched when the rows of those before it have been read, and once.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn

from tunery.data.inputs import ROLES
from tunery.errors import DataError, ResourceError, TuneryError
from tunery.models import cache, hub
from tunery.models.convert import first_line
from tunery.models.quiet import quiet_hub
from tunery.rundir import write_json

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Those that are read, the best first where a dataset has the same rows in several."""
_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/convert/\w+|[^/@]+))?(/(?P<rest>.+))?")
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(ROLES)})(?=[-_.]|$)")
_ABOUT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "package.json"}
_HINT = "name a file or a folder of it: hf:OWNER/NAME/FILE"


Place = Path | Callable[[], Path]


def files(name: str, role: str) -> tuple[list[tuple[str, Place]], str]:
    """→ files of one split, as they are called and where they are, or what fetches them; and a note on which.

    Args:
        name: with the hub before it.
        role: the split they are for, if the name itself says none.

    Raises DataError: no such dataset, gated, no network, no file that can be read, no such split.
    """
    where, _, identifier = name.partition(":")
    parts = _ID.fullmatch(identifier)
    if parts is None:
        raise DataError("not the name of a dataset", "it looks like hf:OWNER/NAME or hf:OWNER/NAME/SPLIT", name)
    repo, revision, rest = parts["repo"], parts["revision"], parts["rest"] or ""
    shown = f"{where}:{repo}" + (f"@{revision}" if revision else "")
    if where == "modelscope":
        folder = _modelscope(repo, revision, name)
        chosen = choose(_below(folder), rest, role, shown)
        return [(f"{shown}/{file}", folder / file) for file in chosen], f"{shown}: {_named(chosen)}"
    commit, listing, stale = _listing(repo, revision, name)
    chosen = choose(listing, rest, role, shown)
    found = [(f"{shown}/{file}", _place(repo, file, commit, name, offline=bool(stale))) for file in chosen]
    return found, f"{shown}: {_named(chosen)} of commit {commit[:8]}{stale}"


def choose(names: Iterable[str], rest: str, role: str, shown: str) -> list[str]:
    """The files to read. Raises DataError where that is not clear, naming what there is."""
    names = sorted(name for name in names if _safe(name))
    data = [name for name in names if _suffix(name) and PurePosixPath(name).name not in _ABOUT]
    if rest in data:
        return [rest]
    if not data:
        raise DataError("has no Parquet, JSON or CSV files (a loading script is never run)", _HINT, shown)
    folder, _, last = rest.rpartition("/")
    if last.lower() in ROLES:
        role = ROLES[last.lower()]
    else:
        folder = rest
    below = [name for name in data if not folder or name.startswith(f"{folder}/")]
    if not below:
        raise DataError(f"has no data files in {folder!r}", f"it has: {_few(data)}", shown)
    splits = {name: _role(name) for name in below}
    chosen = [name for name in below if splits[name] == role]
    if not chosen and not any(splits.values()) and role == "train":
        chosen = below  # nothing says what they are for
    if not chosen:
        there = ", ".join(sorted({split for split in splits.values() if split})) or "no splits"
        raise DataError(f"has no {role} files", f"it has {there}: {_few(below)}", shown)
    best = min((_suffix(name) for name in chosen), key=SUFFIXES.index)
    chosen = [name for name in chosen if _suffix(name) == best]
    folders = sorted({_subset(name) for name in chosen})
    if len(folders) > 1:
        raise DataError(f"has several sets of {role} rows", f"choose one: {shown}/{_few(folders)}", shown)
    return chosen


def _safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not any(p.startswith(".") for p in parts)


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else ""


def _role(name: str) -> str | None:
    """The split of a file: its own name says it, or else that of a folder."""
    for part in reversed(PurePosixPath(name).parts):
        if found := _SPLIT.search(part.lower()):
            return ROLES[found[1]]
    return None


def _subset(name: str) -> str:
    """The folder of a file without that of its split: subsets of a dataset lie in folders."""
    parts = [part for part in PurePosixPath(name).parts[:-1] if part.lower() not in ROLES]
    return "/".join(parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _named(chosen: Sequence[str]) -> str:
    return chosen[0] if len(chosen) == 1 else f"{len(chosen)} files, {chosen[0]} to {chosen[-1]}"


def _below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------------------- Hugging Face


def _listing(repo: str, revision: str | None, name: str) -> tuple[str, list[str], str]:
    """→ commit, its files, and what to say if that is not from the hub but from the cache."""
    from huggingface_hub import HfApi, constants

    known = cache.root() / "datasets" / f"{repo.replace('/', '--')}@{(revision or 'main').replace('/', '-')}.json"
    quiet_hub()
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        info = hub.within(hub.DEADLINE, lambda: HfApi().dataset_info(repo, revision=revision, timeout=hub.DEADLINE / 2))
    except Exception as error:
        remembered = _remembered(known) if not _answered(error) else None
        if remembered is None:
            _refuse(error, repo, revision, name)
        return *remembered, " (the hub cannot be reached: the version fetched last)"
    names = [sibling.rfilename for sibling in info.siblings or []]
    commit = str(info.sha or revision or "main")
    with cache.usable(known):
        known.parent.mkdir(parents=True, exist_ok=True)
    write_json(known, {"commit": commit, "files": names})
    return commit, names, ""


def _remembered(known: Path) -> tuple[str, list[str]] | None:
    try:
        told = json.loads(known.read_text(encoding="utf-8"))
        return str(told["commit"]), [str(name) for name in told["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answered(error: Exception) -> bool:
    """Whether it is the hub that says no, rather than the network."""
    from huggingface_hub import errors

    return isinstance(error, errors.HfHubHTTPError | errors.HFValidationError)


def _refuse(error: Exception, repo: str, revision: str | None, name: str) -> NoReturn:
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        raise DataError(f"{repo} is gated", "ask for access on its page, then: hf auth login", name) from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        problem = f"no dataset {repo!r}, neither a local file nor at {endpoint}"
        raise DataError(problem, "check the spelling; if it is private: hf auth login", name) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise DataError(f"{repo} has no revision {revision!r}", "name a branch, tag or commit of it", name) from error
    if isinstance(error, errors.HfHubHTTPError):
        raise DataError(f"{endpoint} cannot give {repo}: {first_line(error)}", "try again later", name) from error
    raise DataError(
        f"cannot reach {endpoint} to fetch {repo}: {first_line(error)}",
        "check the network or the path, or set HF_ENDPOINT to a mirror",
        name,
    ) from error


def _place(repo: str, file: str, commit: str, name: str, offline: bool) -> Place:
    """Where a file is if it was fetched before; else what fetches it: its rows come while others are not there yet."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo, file, revision=commit, repo_type="dataset")
    if isinstance(known, str):
        return Path(known)
    return _fetched(repo, file, commit, name, offline) if offline else partial(_fetched, repo, file, commit, name)


def _fetched(repo: str, file: str, commit: str, name: str, offline: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(repo, file, repo_type="dataset", revision=commit, local_files_only=offline)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError("cannot write: no space left", "free some disk space, or set HF_HOME") from error
        if offline:
            raise DataError(f"{file} is not in the cache", "run it once with network", name) from error
        raise DataError(
            f"the download of {file} broke off: {first_line(error)}", "run it again; it goes on where it stopped", name
        ) from error
    return Path(found)


# --------------------------------------------------------------------------------------------- ModelScope


def _modelscope(repo: str, revision: str | None, name: str) -> Path:
    """The folder of a dataset, from the package's cache or downloaded."""
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise DataError("ModelScope needs the package modelscope", "pip install 'tunery[modelscope]'", name) from None
    try:
        hub.reach_modelscope(repo)
        patterns = [f"*{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz")]
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except TuneryError as error:
        raise DataError(error.problem, error.hint, name) from error
    except Exception as error:
        raise DataError(
            f"ModelScope cannot give {repo}: {first_line(error)}", "check its name and the network", name
        ) from error
