"""From what a user writes to files: a path, a folder, a pattern, ``-``, a sheet of a workbook, the id of a dataset on a
hub, several of them, or a file for each column.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tunery.data.encodings import Encoding
from tunery.data.source import Source
from tunery.errors import ConfigError, DataError

FileNames = str | Path | Sequence[str | Path] | Mapping[str, str]
KINDS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    **dict.fromkeys((".csv", ".tsv", ".tab"), "table"),
    ".txt": "plain",
    **dict.fromkeys((".conll", ".bio"), "conll"),
    ".xlsx": "excel",
    **dict.fromkeys((".parquet", ".arrow", ".feather"), "arrow"),
}
"""Suffix → reader."""
ROLES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
ROLES |= {"test": "test"}
"""What a file is for, by its name without the suffix."""
HUBS = ("hf:", "modelscope:")
_ROLE = re.compile(r"(train|validation|valid|val|dev|test)([-_]\d+(-of-\d+)?)?")
STDIN = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MOST = 10_000  # files of one folder or pattern
_COPY = 1 << 20
_stdin: dict[int, tuple[Any, IO[bytes]]] = {}


def listed(files: FileNames) -> list[str]:
    """One file or several → their names as the user gave them."""
    if isinstance(files, str | Path):
        return [str(files)]
    return [str(file) for file in (files.values() if isinstance(files, Mapping) else files)]


def label(files: FileNames) -> str:
    """A short name for what is read, fit for a folder: of the first file, without its suffixes."""
    first = listed(files)[0]
    if first == STDIN:
        return "stdin"
    name = stem(first.partition(":")[2] if first.startswith(HUBS) else first.partition("#")[0])
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "data"


def role(name: str | Path) -> str | None:
    """The split that a file is for, by its name: ``test.jsonl.gz``, ``train-00000-of-00002.parquet``."""
    found = _ROLE.fullmatch(stem(name).lower())
    return ROLES[found[1]] if found else None


def stem(name: str | Path) -> str:
    """A file's name without its suffix and that of its packing."""
    file = Path(name).name
    return Path(file[:-3] if file.lower().endswith(".gz") else file).stem


def absolute(files: Any) -> Any:
    """The same with paths that mean the same in any folder."""
    if files is None:
        return None
    if isinstance(files, Mapping):
        return {column: absolute(file) for column, file in files.items()}
    if not isinstance(files, str):
        return [absolute(file) for file in files]
    return files if files == STDIN or files.startswith(HUBS) or _on_hub(files) else str(Path(files).absolute())


def expand(name: str) -> list[str]:
    """The files in a folder that holds splits, so that each can be told by its name; anything else as it is."""
    path = Path(name)
    try:
        if not path.is_dir() or (path / "state.json").is_file():
            return [name]
        if (path / "dataset_dict.json").is_file():
            return [str(folder) for folder in sorted(path.iterdir()) if (folder / "state.json").is_file()] or [name]
    except OSError:
        return [name]
    return [str(file) for file in _inside(path, name)[0]]


def find(files: FileNames, encoding: Encoding | None = None, role: str = "train") -> list[Source]:
    """The sources behind names, in order.

    Args:
        files: as in the configuration.
        encoding: of all text files, if the user named one.
        role: the split they are for; of a dataset on a hub its files are chosen by that.

    Raises DataError: no such file, a link that leads out of its folder, a URL, nothing usable in a folder, a hub that
    cannot be reached or has no such dataset. Raises ConfigError for a file that is named twice.
    """
    if isinstance(files, Mapping):
        return [_side_by_side(files, encoding)]
    found = [source for name in listed(files) for source in _sources(name, encoding, role)]
    seen: dict[tuple[Path, str], str] = {}
    for source in found:
        key = (source.path.resolve() if source.here else Path(source.name), source.sheet)
        if key in seen:
            again = "" if seen[key] == source.name else f" (as {seen[key]} too)"
            raise ConfigError(f"{source.name} is named twice{again}", "name every file once", f"data.{role}")
        seen[key] = source.name
    return found


def _sources(name: str, told: Encoding | None, role: str) -> Iterator[Source]:
    path = Path(name)
    if name == STDIN:
        yield Source(name, Path(_spooled().name), told, kind="content")
    elif _URL.match(name):
        raise DataError("a URL, which tunery does not fetch", "download it and name the file", name)
    elif name.startswith(HUBS):
        yield from _from_hub(name, told, role)
    elif _exists(path, name):
        if path.is_dir():
            yield from _folder(path, name, told)
        elif path.is_file():
            yield Source(name, path, told)
        else:
            raise DataError("not a regular file", "save it to a file first, or pipe it: data.train=-", name)
    elif ".xlsx#" in name.lower() and Path(name.rpartition("#")[0]).is_file():
        file, _, sheet = name.rpartition("#")
        yield Source(name, Path(file), told, kind=".xlsx", sheet=sheet)
    elif glob.has_magic(name):
        yield from _pattern(name, told)
    elif _on_hub(name):
        yield from _from_hub(f"hf:{name}", told, role)
    else:
        raise DataError("no such file", f"looked in {Path.cwd()}", name)


def _exists(path: Path, name: str) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(error, name) from None


def unreadable(error: OSError | ValueError, name: str) -> DataError:
    number = getattr(error, "errno", None)
    return DataError(
        f"cannot be read: {os.strerror(number) if number else error}", "check the path and its rights", name
    )


def _on_hub(name: str) -> bool:
    """Whether a name that is no path looks like the id of a dataset: owner/name."""
    if not _ID.fullmatch(name) or any(name.lower().removesuffix(".gz").endswith(kind) for kind in KINDS):
        return False
    return not os.path.lexists(name) and not Path(name).parent.exists()


def _from_hub(name: str, told: Encoding | None, role: str) -> Iterator[Source]:
    from tunery.data import hubs

    found, note = hubs.files(name, role)
    sources = [Source(shown, place, told) for shown, place in found]
    sources[0].notes.append(note)
    yield from sources


def _side_by_side(files: Mapping[str, str], told: Encoding | None) -> Source:
    """Every column from a text file of its own."""
    columns = {}
    for column, name in files.items():
        source = next(iter(_sources(name, told, "train")))
        if source.path.is_dir() or KINDS.get(source.suffix, "plain") != "plain":
            raise DataError(f"the column {column!r} needs a text file with one value a line", "name a .txt file", name)
        columns[column] = source
    if len(columns) < 2:
        raise ConfigError("files by column need two columns at least", "name the file itself: data.train=FILE", "data")
    first = next(iter(columns.values()))
    return Source(first.name, first.path, told, columns=columns)


# ---------------------------------------------------------------------------------------- folders, patterns


def _folder(path: Path, name: str, told: Encoding | None) -> Iterator[Source]:
    if (path / "state.json").is_file():
        yield Source(name, path, told, kind=".arrow")
        return
    if (path / "dataset_dict.json").is_file():
        found = [file for file in expand(name) if file != name]
        raise DataError("a folder of several splits", f"name one of them: {', '.join(found) or 'none is there'}", name)
    files, others = _inside(path, name)
    if len({role(file) for file in files} - {None}) > 1:
        # training on the test rows by accident would be the worst of all mistakes
        splits = ", ".join(file.name for file in files if role(file))
        raise DataError(
            f"the folder has files of several splits: {splits}",
            f"name them one by one: data.train={files[-1]}; tunery init {name} does so",
            name,
        )
    sources = [Source(str(file), file, told) for file in files]
    if others:
        left = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        sources[0].notes.append(f"{name}: {len(files)} data files are read; left out: {left}")
    yield from sources


def _inside(path: Path, name: str) -> tuple[list[Path], list[str]]:
    """Data files of a folder and those below it, sorted; and the names of other files. Hidden ones do not count."""
    files: list[Path] = []
    others: list[str] = []
    for folder, folders, names in os.walk(path, onerror=_raise):
        folders[:] = sorted(item for item in folders if not item.startswith("."))
        for item in [*folders, *names]:
            if (Path(folder) / item).is_symlink() and not item.startswith("."):
                _check_link(Path(folder) / item, path, name)
        for item in sorted(item for item in names if not item.startswith(".")):
            file = Path(folder) / item
            known = Source(item, Path(item)).suffix in KINDS and file.is_file()
            files.append(file) if known else others.append(str(file.relative_to(path)))
            if len(files) + len(others) > _MOST:
                raise DataError(f"more than {_MOST:,} files", "name the folder of the data", name)
    if not files:
        raise DataError("a folder without data files", f"known: {' '.join(KINDS)}", name)
    return sorted(files), others


def _raise(error: OSError) -> None:
    raise unreadable(error, str(error.filename))


def _check_link(path: Path, root: Path, name: str) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"a link that leads outside: {path}", "name the file that is meant, or copy it there", name)


def _pattern(name: str, told: Encoding | None) -> Iterator[Source]:
    """Files that a pattern matches, sorted; none may lie outside of the folder that the pattern begins with."""
    root = Path(*_until(Path(name).parts))
    found = sorted(islice(glob.iglob(name, recursive=True), _MOST + 1))  # noqa: PTH207 - leaves hidden files out
    if len(found) > _MOST:
        raise DataError(f"matches more than {_MOST:,} files", "write a narrower pattern", name)
    files = [Path(file) for file in found if Path(file).is_file() or Path(file).is_symlink()]
    if not files:
        raise DataError("no file matches this pattern", f"looked in {Path.cwd()}", name)
    for file in files:
        _check_link(file, root, name)
    yield from (Source(str(file), file, told) for file in files)


def _until(parts: Iterable[str]) -> Iterator[str]:
    """The parts before the first that has a wildcard."""
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _spooled() -> IO[bytes]:
    """Standard input as a file: it can be read only once, but a data file is looked at several times."""
    stream = sys.stdin
    if stream is None or stream.isatty():
        raise DataError("nothing is piped into tunery", "as in: cat FILE | tunery check data.train=-", STDIN)
    key = id(stream)
    if key not in _stdin or _stdin[key][0] is not stream:
        spool = tempfile.NamedTemporaryFile(prefix="tunery-stdin-")  # noqa: SIM115 - lives as long as the process
        raw = getattr(stream, "buffer", None)
        if raw is None:  # a text stream in place of it
            spool.write(stream.read().encode("utf-8"))
        else:
            while chunk := raw.read(_COPY):
                spool.write(chunk)
        spool.flush()
        _stdin[key] = (stream, spool)
    return _stdin[key][1]
