"""``tunery export``: build, let the real consumer load it, compare, and only then give it its name.

Everything happens in a folder beside the target, which is renamed at the end: a killed export leaves nothing under the
name, and a new one takes the place of an old one only after it has passed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunery.errors import ConfigError, GateError, ModelError
from tunery.export import consume, kinds, parity, probes
from tunery.export.kind import Kind, Subject
from tunery.models import machine
from tunery.report import card
from tunery.report.records import read
from tunery.run.records import say
from tunery.run.run import Run
from tunery.rundir import sha256, unwritable, write_json, write_text

ROWS = 32
PARITY, SUMS, SETTINGS = "parity.json", "SHA256SUMS", "settings.json"


def export(
    run: Run | str | Path,
    to: str,
    *,
    dtype: str | None = None,
    output: str | Path | None = None,
    force: bool = False,
    rows: int = ROWS,
    max_kl: float | None = None,
    min_top1: float | None = None,
    unverified: bool = False,
) -> dict[str, Any]:
    """Export a finished run → ``run``, ``kind``, ``dtype``, ``path``, ``bytes``, ``files`` and ``parity``.

    Args:
        to: a kind of export (``tunery.export.kinds.names()``).
        dtype: what the weights are stored in; default: the kind's choice.
        output: folder to write; default ``RUN/export/KIND``, with ``-DTYPE`` behind it where a dtype is given.
        force: put it in the place of an older export, once it has passed.
        rows: by how many rows of the run's data it is judged.
        max_kl, min_top1: bounds instead of those of ``parity.BOUNDS``.
        unverified: publish it all the same where the program that would load it is not installed; ``parity.json`` and
            the model card say that nothing was compared. Where it is installed, this changes nothing.

    Raises GateError (nothing is published), ConfigError (this run cannot be exported so), ModelError.
    """
    kind = kinds.get(to)
    run = run if isinstance(run, Run) else Run(run)
    target = Path(output) if output else run.dir.export(f"{to}-{dtype}" if dtype else to)
    _check_target(target, force)
    kind.require()
    verified = _can_be_verified(kind, unverified)
    machine.prepare()
    _check_weights(run)
    subject = Subject(run)
    chosen = _dtype(kind, subject, dtype)
    if reason := kind.refuses(subject):
        problem, _, hint = reason.partition(";")
        raise ConfigError(f"{to}: {problem}", hint.strip(), "--to")
    wanted = parity.bounds(kind.precision(subject, chosen), subject, max_kl, min_top1)
    with _scratch(target) as scratch:
        built = scratch / "built"
        built.mkdir()
        if verified:
            asked = probes.collect(subject, rows)
            say(f"{len(asked.rows)} probe rows through the run")
            ours = parity.reference(subject, asked, scratch / "run")
        say(f"building {to} ({chosen})")
        kind.build(subject, built, chosen)
        if subject.settings and not (built / SETTINGS).exists():
            write_json(built / SETTINGS, subject.settings)
        if verified:
            say(f"{len(asked.rows)} probe rows through {kind.consumer.replace('_', '-')}")
            found = _judge(kind, subject, asked, ours, scratch, chosen, wanted)
        else:
            found = {**_about(kind, subject, chosen), "consumer": None, "passed": None}
        _finish(kind, subject, built, target, found)
        files = {path.relative_to(built).as_posix(): path.stat().st_size for path in _files(built)}
        _publish(built, target)
    return {
        "run": str(run.path),
        "kind": to,
        "dtype": chosen,
        "path": str(target),
        "bytes": sum(files.values()),
        "files": files,
        "parity": found,
    }


def _can_be_verified(kind: Kind, unverified: bool) -> bool:
    """Raises ModelError if what proves the export is missing, and nobody said that this is all right."""
    try:
        kind.require_consumer()
    except ModelError as missing:
        if not unverified:
            hint = f"{missing.hint}; --unverified publishes it without the proof"
            raise ModelError(missing.problem, hint, missing.where) from None
        say(f"the export is not checked: {missing.problem}")
        return False
    return True


def _about(kind: Kind, subject: Subject, dtype: str) -> dict[str, Any]:
    return {"kind": kind.name, "dtype": dtype, "run": subject.name, "base": subject.manifest["base"]["hash"]}


def _judge(
    kind: Kind,
    subject: Subject,
    asked: probes.Probes,
    ours: parity.Answers,
    scratch: Path,
    dtype: str,
    wanted: parity.Bounds,
) -> dict[str, Any]:
    """→ the contents of ``parity.json``. Raises GateError."""
    built, answers = scratch / "built", scratch / "consumer"
    job = {"consumer": kind.consumer, "folder": str(built), "threads": machine.cpus(), **asked.job(subject)}
    said = consume.run({**job, **kind.job(subject, built, dtype)}, answers)
    theirs = parity.Answers(said["tokens"], parity.texts(subject, said.get("answers", [])), answers)
    found = parity.compare(subject, asked, ours, theirs)
    problems = parity.failures(found, wanted)
    found = {
        **_about(kind, subject, dtype),
        "consumer": {"name": kind.consumer, "versions": said["versions"]},
        **found,
        "bounds": {**asdict(wanted), "kl_at_any_position": parity.WORST * wanted.kl},
        "passed": not problems,
    }
    if problems:
        raise GateError(
            f"nothing was published: {kind.name} ({dtype}) is not the run's model: {'; '.join(problems)}",
            "restore or retrain the run, or choose a dtype with more bits; --max-kl and --min-top1 set other bounds",
            str(subject.run.path),
        )
    return found


def _finish(kind: Kind, subject: Subject, built: Path, target: Path, found: dict[str, Any]) -> None:
    """Numbers, model card and checksums."""
    write_json(built / PARITY, found)
    mode = (built / PARITY).stat().st_mode  # what the umask allows: safetensors keeps its files to their owner
    for path in _files(built):
        path.chmod(path.stat().st_mode | mode)
    records = read(subject.run.dir)
    use = kind.use(subject, target)
    if steps := subject.settings.get("clean"):
        names = ", ".join(step["name"] for step in steps)
        cleans = f"The run cleans texts first (data.clean: {names}; see {SETTINGS})"
        note = f"{cleans}, and this export does not: do it yourself"
        say(note)
        use += f"\n\n{note}."
    write_text(built / card.FILE, card.render(records, use=use, parity=found))
    lines = [f"{sha256(path)}  {path.relative_to(built).as_posix()}\n" for path in _files(built)]
    write_text(built / SUMS, "".join(lines))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _dtype(kind: Kind, subject: Subject, dtype: str | None) -> str:
    chosen = dtype or kind.dtype(subject)
    if chosen not in kind.dtypes:
        raise ConfigError(f"{kind.name} has no {chosen}", f"known: {', '.join(kind.dtypes)}", "--dtype")
    return chosen


def _check_weights(run: Run) -> None:
    """Raises GateError if the run's weights are others than those that its training wrote."""
    for name, digest in (run.manifest.get("weights") or {}).items():
        path = run.dir.model / name
        if not path.is_file():
            raise ModelError("weights are missing", "restore the run or train it again", str(path))
        if sha256(path) != digest:
            raise GateError(
                "nothing was published: these are not the weights that the run was scored with",
                "restore the run or train it again",
                str(path),
            )


# -------------------------------------------------------------------------------------------------- places


def _check_target(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not (target / PARITY).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError("this is there already, and no export", "choose another --output", str(target))
    if (target / PARITY).is_file() and not force:
        hint = "--force puts a new one in its place once it has passed; --output FOLDER writes it elsewhere"
        raise ConfigError("this export is there already", hint, str(target))


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards; those of killed exports are swept away."""
    target = target.absolute()
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        scratch.mkdir()
        yield scratch
    except OSError as error:
        raise unwritable(error, target) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(target: Path) -> None:
    old = _old(target)
    if old.is_dir() and not target.exists():  # killed between the two renames of ``_publish``
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    for path in target.parent.glob(f".{target.name}.*.part"):
        owner = path.name.split(".")[-2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(path, ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _publish(built: Path, target: Path) -> None:
    target = target.absolute()
    if target.exists():
        target.rename(_old(target))
    built.rename(target)
    shutil.rmtree(_old(target), ignore_errors=True)
