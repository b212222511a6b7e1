"""The run directory: the only module that knows its paths.

::

    config.yaml  manifest.json  ledger.json  metrics.jsonl  forgetting.json  log.txt
    checkpoints/step-000100/  checkpoints/best-000100/  model/  eval/NAME/  export/KIND/

Every file is written beside its place and renamed into it, so a killed process leaves a whole file or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tunery import config as configuration
from tunery.errors import DataError, ModelError, ResourceError

SCHEMA_VERSION = 1


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A scratch path that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises ResourceError where the place cannot be written or the disk is full.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        if scratch.is_dir() and path.is_dir():
            shutil.rmtree(path)
        scratch.replace(path)
    except OSError as error:
        raise unwritable(error, path) from error
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # below a file there is nothing to remove, but what it raises
                scratch.unlink(missing_ok=True)


def unwritable(error: OSError, path: Path) -> ResourceError:
    """The error to show for a write that failed."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "free some disk space" if error.errno == 28 else "choose another place with run.dir="
    return ResourceError(f"cannot write: {reason}", hint, str(path))


def write_text(path: Path, text: str) -> None:
    with writing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON that every program reads: numbers that are none (NaN, infinite) become null."""
    how: dict[str, Any] = {"ensure_ascii": False, "indent": indent, "default": str, "allow_nan": False}
    try:
        return json.dumps(value, **how)
    except ValueError:
        return json.dumps(_finite(value), **how)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    write_text(path, dumps(value, indent=2) + "\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    with writing(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(dumps(record) + "\n")


def read_jsonl(file: Path, most: int | None = None, torn: bool = False) -> list[dict[str, Any]]:
    """Objects of a JSONL file, the first ``most``; none if there is no file.

    Args:
        torn: a killed process may have left half a line; it is passed over.

    Raises ModelError for a line that is not JSON.
    """
    if not file.is_file():
        return []
    found = []
    with file.open("rb") as stream:  # lines end at line feeds alone, whatever else a text holds
        for number, line in enumerate(islice(stream, most), 1):
            try:
                value = json.loads(line) if line.strip() else None
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                if torn:
                    continue
                hint = "restore the run or evaluate it again"
                raise ModelError(f"damaged: {error}", hint, f"{file}:{number}") from None
            if isinstance(value, dict):
                found.append(value)
    return found


def read_json(path: Path) -> Any:
    """Raises ModelError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("a file of the run is missing", "is it a finished run? see tunery runs", str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ModelError(f"damaged: {error}", "restore the run or train it again", str(path)) from None


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def timestamp() -> str:
    """Now, in UTC, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunDir:
    """Paths and records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, folder: Path, name: str) -> RunDir:
        """A new directory; an existing one is never reused: ``name-2``, ``name-3``, … is taken instead."""
        for number in range(1, 10_000):
            path = folder / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                if path.parent.is_dir():
                    continue
                raise ResourceError("not a directory", "choose another run.dir=", str(path.parent)) from None
            except OSError as error:
                raise unwritable(error, path) from None
        raise ResourceError("too many runs of that name", "set run.name=", str(folder / name))

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """Raises ModelError if it is not a run directory."""
        run = cls(Path(path))
        if not run.path.exists():
            raise ModelError("no such run directory", "tunery runs lists them", str(path))
        if not run.manifest_file.is_file():
            raise ModelError("not a run directory (no manifest.json)", "tunery runs lists them", str(path))
        found = run.manifest().get("schema_version")
        if found != SCHEMA_VERSION:
            raise ModelError(
                f"run directory of schema {found}, this is {SCHEMA_VERSION}", "use the tunery that made it", str(path)
            )
        return run

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.json"

    @property
    def forgetting_file(self) -> Path:
        return self.path / "forgetting.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def weights_hash(self) -> str:
        """SHA-256 over the names and bytes of all weights in ``model``."""
        digest = hashlib.sha256()
        for file in sorted(self.model.rglob("*.safetensors")):
            digest.update(f"{file.relative_to(self.model)}\0{sha256(file)}\n".encode())
        return digest.hexdigest()

    def evaluation(self, name: str) -> Path:
        return self.path / "eval" / name

    def export(self, kind: str) -> Path:
        return self.path / "export" / kind

    def config(self) -> configuration.Config:
        try:
            values = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ModelError(f"damaged: {error}", "restore the run or train it again", str(self.config_file)) from None
        if not isinstance(values, dict):
            raise ModelError("damaged: no sections", "restore the run or train it again", str(self.config_file))
        if isinstance(values.get("train"), dict):
            values["train"].setdefault("join_rows", False)  # versions that did not know the key padded their rows
        return configuration.build(values)

    def write_config(self, config: configuration.Config) -> None:
        write_text(self.config_file, configuration.dump(config))

    def manifest(self) -> dict[str, Any]:
        value = read_json(self.manifest_file)
        return value if isinstance(value, dict) else {}

    def update_manifest(self, **changes: Any) -> None:
        old = self.manifest() if self.manifest_file.exists() else {"schema_version": SCHEMA_VERSION}
        write_json(self.manifest_file, {**old, **changes})

    def log_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        try:
            with self.metrics_file.open("a", encoding="utf-8") as stream:
                stream.write(dumps(record) + "\n")
        except OSError as error:
            raise unwritable(error, self.metrics_file) from None

    def truncate_metrics(self, step: int) -> None:
        """Drop the records after ``step``: a resumed run writes them again."""
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            write_text(self.metrics_file, "".join(line + "\n" for line in kept))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process may train in a run. Raises ModelError if another one does."""
        import fcntl

        with (self.path / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ModelError("another process is training this run", "wait for it to end", str(self.path)) from None
            yield


def _step(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except json.JSONDecodeError:
        return float("inf")  # the half line a killed process left


def find(folder: Path) -> list[RunDir]:
    """All runs in a folder, newest last. Raises DataError if there is no such folder."""
    if not folder.is_dir():
        raise DataError("no such folder of runs", "train something first, or name the folder", str(folder))
    found = [RunDir(path.parent) for path in folder.glob("*/manifest.json")]
    return sorted(found, key=lambda run: run.manifest_file.stat().st_mtime)
