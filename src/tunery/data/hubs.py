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
from tunery.models.quiet import quiet_hub, quiet_modelscope
from tunery.rundir import write_json

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Those that are read, the best first where a dataset has the same rows in several."""
_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/convert/\w+|[^/@]+))?(/(?P<rest>.+))?")
_SPLIT = re.compile(rf"(?:^|[-_.])({'|'.join(ROLES)})(?=[-_.]|$)")
_ABOUT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "package.json"}
_STALE = " (the hub cannot be reached: the version fetched last)"
_HINT = "name a file or a folder of it: hf:OWNER/NAME/FILE"


Place = Path | Callable[[], Path]
Answer = tuple[list[str], Callable[[str], Place], str]
"""What a hub says of a dataset: its files, where each is or what fetches it, and which version that is."""


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
    names, place, version = (_modelscope if where == "modelscope" else _hugging_face)(repo, revision, name)
    chosen = choose(names, rest, role, shown)
    return [(f"{shown}/{file}", place(file)) for file in chosen], f"{shown}: {_named(chosen)}{version}"


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


def _known(repo: str, revision: str) -> Path:
    """The file that keeps which files a dataset had when its hub was last asked."""
    return cache.root() / "datasets" / f"{repo.replace('/', '--')}@{revision.replace('/', '-')}.json"


def _keep(known: Path, commit: str, names: list[str]) -> None:
    with cache.usable(known):
        known.parent.mkdir(parents=True, exist_ok=True)
    write_json(known, {"commit": commit, "files": names})


def _kept(known: Path) -> tuple[str, list[str]] | None:
    try:
        told = json.loads(known.read_text(encoding="utf-8"))
        return str(told["commit"]), [str(name) for name in told["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetched(download: Callable[..., str | Path], file: str, name: str, offline: bool = False) -> Path:
    try:
        with quiet_modelscope():
            return Path(download(local_files_only=offline))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ResourceError("cannot write: no space left", "free some disk space, or move the cache") from error
        if offline:
            raise DataError(f"{file} is not in the cache", "run it once with network", name) from error
        raise DataError(
            f"the download of {file} broke off: {first_line(error)}", "run it again; it goes on where it stopped", name
        ) from error


# ------------------------------------------------------------------------------------------- Hugging Face


def _hugging_face(repo: str, revision: str | None, name: str) -> Answer:
    from huggingface_hub import HfApi, constants

    known = _known(repo, revision or "main")
    quiet_hub()
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        info = hub.within(hub.DEADLINE, lambda: HfApi().dataset_info(repo, revision=revision, timeout=hub.DEADLINE / 2))
    except Exception as error:
        kept = _kept(known) if not _answered(error) else None
        if kept is None:
            _refuse(error, repo, revision, name)
        commit, names = kept
        return names, lambda file: _place(repo, file, commit, name, offline=True), f" of commit {commit[:8]}{_STALE}"
    names = [sibling.rfilename for sibling in info.siblings or []]
    commit = str(info.sha or revision or "main")
    _keep(known, commit, names)
    return names, lambda file: _place(repo, file, commit, name, offline=False), f" of commit {commit[:8]}"


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
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    known = try_to_load_from_cache(repo, file, revision=commit, repo_type="dataset")
    if isinstance(known, str):
        return Path(known)
    download = partial(hf_hub_download, repo, file, repo_type="dataset", revision=commit)
    return _fetched(download, file, name, offline) if offline else partial(_fetched, download, file, name)


# --------------------------------------------------------------------------------------------- ModelScope


def _modelscope(repo: str, revision: str | None, name: str) -> Answer:
    try:
        from modelscope_hub import HubApi
    except ImportError:
        raise DataError("ModelScope needs the package modelscope", "pip install 'tunery[modelscope]'", name) from None
    api = HubApi(endpoint=hub.modelscope_endpoint())
    known = _known(f"modelscope--{repo}", revision or "master")
    try:
        hub.reach_modelscope(repo)
    except TuneryError as error:
        kept = _kept(known)
        if kept is None:
            raise DataError(error.problem, error.hint, name) from error
        cached = partial(api.download_file, repo, "dataset", revision=revision)
        return kept[1], lambda file: _fetched(partial(cached, file), file, name, offline=True), _STALE
    try:
        with quiet_modelscope():
            api = HubApi(endpoint=api.resolve_endpoint_for_read(repo, repo_type="dataset"))
            listed = api.list_repo_files(repo, "dataset", revision=revision)
    except Exception as error:
        raise DataError(
            f"ModelScope cannot give {repo}: {first_line(error)}", "check its name and the network", name
        ) from error
    sums = {entry.path: entry.sha256 for entry in listed if not entry.is_dir}
    _keep(known, revision or "master", list(sums))

    def place(file: str) -> Place:
        # With its hash a file in the cache is used only if it is still the one of this branch.
        download = partial(api.download_file, repo, "dataset", file, revision=revision, expected_sha256=sums[file])
        return partial(_fetched, download, file, name)

    return list(sums), place, ""
