"""Train a run from beginning to end, or go on with an interrupted one."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from tunery import scoring
from tunery.config import Config
from tunery.errors import ConfigError, DataError, Interrupted, ModelError, ResourceError, TuneryError
from tunery.evaluate import Results, Settings, evaluate
from tunery.generate.engine import Sampling
from tunery.models import machine, weights
from tunery.models.load import Base, open_base
from tunery.protocols import Method, Task
from tunery.run import build, processes
from tunery.run.dataset import Dataset, load_dataset
from tunery.run.encode import Split, encode_split, max_length, probe
from tunery.run.records import logging_to, pulling, remembering, say, write_results
from tunery.rundir import RunDir, write_json, writing
from tunery.train.loop import Progression, Trainer
from tunery.train.progress import Progress, stop_on_signals

VERSIONS = ("tunery", "torch", "transformers", "peft", "accelerate", "numpy")


@dataclass(slots=True)
class Prepared:
    """Everything before the first weight is loaded: nothing has been written yet."""

    config: Config
    dataset: Dataset
    base: Base
    task: Task
    method: Method
    splits: dict[str, Split]


def prepare(config: Config) -> Prepared:
    """Check configuration, data and model, in this order; encode the rows; resolve every default."""
    machine.prepare()
    _check_writable(Path(config.run.dir))
    if config.task_name and config.eval.metrics:
        task, _ = build.parts(config)
        scoring.check(config.eval.metrics, task.kinds)
    if not config.data.train:
        raise ConfigError("no training data", "set data.train=FILE", "data.train")
    dataset = load_dataset(config.data, config.task_name, config.train.seed)
    for note in dataset.notes:
        say(note)
    config = _with_task(config, dataset)
    task, method = build.parts(config)
    if config.eval.metrics:
        scoring.check(config.eval.metrics, task.kinds)
    task.fit(dataset.splits["train"], config.data.labels)
    _refuse_unknown(dataset, task, config)
    base = open_base(config.model, progress=pulling)
    build.check_family(task, base)
    length = max_length(config.data.max_length, task, base)
    splits = {
        name: encode_split(name, examples, task, base.tokenizer, config.data, length, dataset.ledger)
        for name, examples in dataset.splits.items()
    }
    for name, split in splits.items():
        if split.truncated:
            say(f"{name}: {split.truncated} of {len(split.examples)} rows cut to {length} tokens (data.on_long)")
    lr = config.train.lr or method.default_lr(base.parameters(), base.family)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update={"lr": lr}),
            "data": config.data.model_copy(
                update={"max_length": length, "format": dataset.format, "columns": dataset.columns}
            ),
        }
    )
    return Prepared(config, dataset, base, task, method, splits)


def train(config: Config) -> RunDir:
    """A new run. Raises TuneryError; the run directory is made only when configuration, data and model are fine."""
    with remembering() as notes:
        prepared = prepare(config)
    config = prepared.config
    run = processes.shared(
        prepared.base.device.type == "cpu",
        lambda: RunDir.create(Path(config.run.dir), config.run.name or _name(prepared)),
    )
    with run.lock(), logging_to(run, notes):
        _train(run, prepared, resume=False)
    processes.wait()
    return run


def resume(path: str | Path) -> RunDir:
    """Go on with a run that was interrupted, exactly where its newest checkpoint was written.

    Raises ModelError if the run is finished, DataError if its data files have changed.
    """
    run = RunDir.open(path) if processes.first() else processes.Watched(Path(path))
    with run.lock(), logging_to(run):
        manifest = run.manifest()
        if manifest.get("status") == "completed":
            raise ModelError(
                "this run is completed", "train --continue is for new data; train makes a new run", str(path)
            )
        prepared = prepare(run.config())
        changed = [f for f, h in manifest["data"].items() if prepared.dataset.hashes.get(f) != h]
        if changed:
            raise DataError("the data changed since the run began", "train a new run", changed[0])
        if prepared.base.hash() != manifest["base"]["hash"]:
            raise ModelError("the base model changed since the run began", "train a new run", prepared.base.name)
        if processes.first():
            _sweep(run.path)
        run.update_manifest(status="running")
        _train(run, prepared, resume=True)
    processes.wait()
    return run


# --------------------------------------------------------------------------------------------- the work


def _train(run: RunDir, prepared: Prepared, resume: bool) -> None:
    try:
        if not resume:
            _record(run, prepared)
        _work(run, prepared, resume)
    except (Interrupted, KeyboardInterrupt):
        run.update_manifest(status="interrupted")
        raise
    except Exception as error:
        with suppress(TuneryError, OSError):  # a full disk must not hide what went wrong
            run.update_manifest(status="failed", problem=str(error))
        if not run.manifest_file.exists():  # it cannot even say that it failed
            shutil.rmtree(run.path, ignore_errors=True)
        if _is_memory(error):
            hint = "lower train.batch_size or train.micro_tokens, or set train.gradient_checkpointing=true"
            raise ResourceError(f"out of memory: {error}", hint, str(run.path)) from None
        raise


def _is_memory(error: Exception) -> bool:
    """Torch says it by a type of its own on a GPU, and by a plain RuntimeError on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for path in folder.rglob(".*.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _work(run: RunDir, prepared: Prepared, resume: bool) -> None:
    config, task, method, base = prepared.config, prepared.task, prepared.method, prepared.base
    machine.reset_peak_memory()
    model, head = build.with_head(base, task, config)
    if not (resume and "base_metrics" in run.manifest()):
        _evaluate_base(run, prepared, model)
    build.attach(method, task, model, head, config)
    trained = weights.trainable(model)
    run.update_manifest(
        parameters={
            "total": sum(p.numel() for p in model.parameters()),
            "trainable": sum(p.numel() for p in trained.values()),
        }
    )
    tuned = build.Tuned(base, task, method, model, head)
    now = _loop(run, prepared, tuned, resume)
    validation = _scores(prepared, model, "validation", None)
    write_results(run, "validation", prepared.splits["validation"], task, validation)
    test = None
    if "test" in prepared.splits:
        test = _scores(prepared, model, "test", None)
        write_results(run, "test", prepared.splits["test"], task, test)
    if processes.first():
        with writing(run.model) as scratch:
            tuned.save(scratch)
    run.update_manifest(
        status="completed",
        finished=_now(),
        steps=now.step,
        best_step=now.best_step or now.step,
        stopped_early=now.stopped_early,
        supervised_tokens=now.targets,
        tokens=now.tokens,
        seconds=round(now.seconds, 3),
        tokens_per_second=round(now.tokens / max(now.seconds, 1e-9), 1),
        peak_memory_bytes=machine.peak_memory(base.device),
        metrics=validation.metrics,
        test_metrics=test.metrics if test else None,
    )


def _loop(run: RunDir, prepared: Prepared, tuned: build.Tuned, resume: bool) -> Progression:
    config = prepared.config
    accelerator = Accelerator(
        cpu=prepared.base.device.type == "cpu", log_with=list(config.train.trackers) or None, project_dir=run.path
    )
    if config.train.trackers:
        accelerator.init_trackers(
            "tunery",
            {f"{s}.{k}": str(v) for s, d in config.dump().items() if isinstance(d, dict) for k, v in d.items()},
        )
    torch.manual_seed(config.train.seed + 2 + 1000 * accelerator.process_index)  # each its own dropout
    trainer = Trainer(
        tuned.model,
        prepared.task,
        prepared.method,
        prepared.splits["train"].rows,
        config.train,
        run,
        accelerator,
        tuned.tokenizer.pad_token_id or 0,
        lambda: _scores(prepared, tuned.model, "validation", 0).metrics,
        0 if config.eval.every == "epoch" else int(config.eval.every),
    )
    if resume:
        say(f"resuming at step {trainer.now.step}" if trainer.resume() else "no checkpoint yet: starting anew")
    progress = Progress(trainer.total_steps, trainer.now.step)
    try:
        with stop_on_signals() as stop:
            now = trainer.train(progress, stop)
    finally:
        progress.close()
        if config.train.trackers:
            accelerator.end_training()
    if now.stopped_early:
        say(f"stopped early: no improvement of {prepared.task.monitor} since step {now.best_step}")
    return now


def settings(config: Config, generate_rows: int | None) -> Settings:
    """How this run is evaluated."""
    return Settings(
        metrics=config.eval.metrics,
        batch_size=config.eval.batch_size,
        batch_tokens=config.train.micro_tokens,
        max_length=config.data.max_length or 512,
        sampling=Sampling(max_new_tokens=config.eval.max_new_tokens),
        generate_rows=generate_rows,
    )


def _scores(prepared: Prepared, model: nn.Module, split: str, rows: int | None) -> Results:
    """Numbers on a split. Test rows are all answered; of the validation rows ``eval.generate_rows``."""
    if rows is None and split == "validation":
        rows = prepared.config.eval.generate_rows
    found = evaluate(
        model,
        prepared.task,
        prepared.base.tokenizer,
        prepared.splits[split].examples,
        prepared.splits[split].rows,
        settings(prepared.config, rows),
    )
    if 0 < found.generated_rows < len(prepared.splits[split].examples):
        rows = len(prepared.splits[split].examples)
        say(f"{split}: answered {found.generated_rows} of {rows} rows (eval.generate_rows)")
    return found


def _evaluate_base(run: RunDir, prepared: Prepared, model: nn.Module) -> None:
    """The same numbers for the untouched model, to stand beside the tuned ones."""
    for split in ("validation", "test"):
        if split in prepared.splits:
            say(f"scoring the base model on {split} rows")
            results = _scores(prepared, model, split, None)
            write_results(run, f"{split}-base", prepared.splits[split], prepared.task, results)
            run.update_manifest(**{"base_metrics" if split == "validation" else "base_test_metrics": results.metrics})


# ---------------------------------------------------------------------------------------------- records


def _with_task(config: Config, dataset: Dataset) -> Config:
    from tunery import registry

    section = config.task or registry.config_class("task", dataset.task).model_validate({"name": dataset.task})
    return config.model_copy(update={"task": section})


def _refuse_unknown(dataset: Dataset, task: Task, config: Config) -> None:
    """Labels of validation and test that training never saw: an error, or dropped if the user said so."""
    for name, examples in dataset.splits.items():
        if name == "train":
            continue
        bad = [(example, problem) for example in examples if (problem := task.check(example))]
        if bad and config.data.on_bad_row == "error":
            example, problem = bad[0]
            more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
            raise DataError(
                f"{problem}{more}", "correct it, or drop such rows with data.on_bad_row=drop", example.where
            )


def _check_writable(folder: Path) -> None:
    """Raises ResourceError before anything expensive if runs cannot be written there."""
    import os

    at = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    if not at.is_dir() or not os.access(at, os.W_OK):
        raise ResourceError("cannot write runs here", "choose another place with run.dir=", str(folder))
    if shutil.disk_usage(at).free < 1 << 20:
        raise ResourceError("the disk is full", "free some disk space", str(folder))


def _name(prepared: Prepared) -> str:
    config = prepared.config
    digest = hashlib.sha256(json.dumps(config.dump(), sort_keys=True).encode()).hexdigest()[:6]
    model = Path(config.model.name).stem.lower().replace(":", "-")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{model}-{config.task_name}-{config.method_name}-{digest}"


def _record(run: RunDir, prepared: Prepared) -> None:
    if not processes.first():
        return
    config, base = prepared.config, prepared.base
    run.write_config(_absolute(config))
    write_json(run.ledger_file, prepared.dataset.ledger.to_json())
    first = prepared.splits["train"].examples[0]
    run.update_manifest(
        status="running",
        started=_now(),
        argv=sys.argv,
        versions={name: version(name) for name in VERSIONS},
        python=platform.python_version(),
        commit=_commit(),
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        seed=config.train.seed,
        base={"name": base.name, "folder": str(base.folder), "hash": base.hash()},
        data={str(Path(file).absolute()): digest for file, digest in prepared.dataset.hashes.items()},
        rows={name: len(split.examples) for name, split in prepared.splits.items()},
        probe=probe(prepared.task, base.tokenizer, first, config.data.max_length or 512),
    )


def _absolute(config: Config) -> Config:
    """Files by absolute path, so that resuming works from any folder."""

    def fix(files: Any) -> Any:
        if files is None:
            return None
        many = [files] if isinstance(files, str) else files
        found = [str(Path(file).absolute()) for file in many]
        return found[0] if isinstance(files, str) else found

    data = config.data.model_copy(update={k: fix(getattr(config.data, k)) for k in ("train", "validation", "test")})
    name = config.model.name
    model = config.model.model_copy(update={"name": str(Path(name).absolute()) if Path(name).exists() else name})
    run = config.run.model_copy(update={"dir": str(Path(config.run.dir).absolute())})
    return config.model_copy(update={"data": data, "model": model, "run": run})


def _commit() -> str | None:
    """Commit of the working directory, "+" behind it if there are uncommitted changes."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)  # noqa: S607
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
