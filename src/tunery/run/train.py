"""Train a run from beginning to end, or go on with an interrupted one."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from tunery.config import Config
from tunery.errors import DataError, Interrupted, ModelError, Paused, ResourceError, TuneryError
from tunery.evaluate import Results, Settings, evaluate
from tunery.generate.engine import Sampling
from tunery.models import machine, weights
from tunery.models.load import Base
from tunery.run import (
    beside,
    build,
    forgetting,
    overfitting,
    prediction,
    processes,
    reporting,
    retention,
    scaling,
)
from tunery.run.dataset import changed_file
from tunery.run.encode import max_prompt
from tunery.run.forgetting import Measured
from tunery.run.manifest import record, run_name
from tunery.run.overfitting import Watch
from tunery.run.prepare import Prepared, prepare
from tunery.run.records import logging_to, remembering, say, write_results
from tunery.run.scaling import Point
from tunery.rundir import RunDir, sha256, timestamp, writing
from tunery.train.loop import Pause, Progression, Trainer
from tunery.train.progress import Progress, stop_on_signals


def train(config: Config, pause: Pause | None = None) -> RunDir:
    """A new run. Raises TuneryError; the run directory is made only when configuration, data and model are fine.

    ``pause`` is asked after each evaluation; where it says yes, Paused is raised and ``resume`` goes on exactly.
    """
    began = time.perf_counter()
    with remembering() as notes:
        prepared = prepare(config)
    config = prepared.config
    run = processes.shared(
        prepared.base.device.type == "cpu",
        lambda: RunDir.create(Path(config.run.dir), config.run.name or run_name(config)),
    )
    with run.lock(), logging_to(run, notes):
        _train(run, prepared, resume=False, pause=pause, began=began)
    processes.wait()
    return run


def resume(path: str | Path, pause: Pause | None = None) -> RunDir:
    """Go on with a run that was interrupted, exactly where its newest checkpoint was written.

    Raises ModelError if the run is finished, DataError if its data files have changed.
    """
    run = RunDir.open(path) if processes.first() else processes.Watched(Path(path))
    with run.lock(), logging_to(run):
        manifest = run.manifest()
        if manifest.get("status") == "completed":
            raise ModelError("this run is completed", "tunery train makes a new run", str(path))
        prepared = prepare(run.config())
        # a folder may have lost or got files
        if changed := changed_file(manifest["data"], prepared.dataset.hashes):
            raise DataError("the data changed since the run began", "train a new run", changed)
        if prepared.base.hash() != manifest["base"]["hash"]:
            raise ModelError("the base model changed since the run began", "train a new run", prepared.base.name)
        if processes.first():
            _sweep(run.path)
        run.update_manifest(status="running")
        _train(run, prepared, resume=True, pause=pause)
    processes.wait()
    return run


# --------------------------------------------------------------------------------------------- the work


def _train(
    run: RunDir, prepared: Prepared, resume: bool, pause: Pause | None, began: float | None = None
) -> None:
    """``began``: when the run did, by ``time.perf_counter``; None for one that was interrupted since."""
    foreseen = prediction.Foreseen(run, prepared)
    try:
        if not resume:
            record(run, prepared)
            processes.wait()  # the others read the manifest
            foreseen.at_start()
        _work(run, prepared, resume, pause)
    except Paused:
        run.update_manifest(status="paused", peak_memory_bytes=_peak_memory(run, prepared))
        raise
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
    foreseen.at_end(None if began is None else time.perf_counter() - began)
    if prepared.config.run.report and processes.first():
        reporting.write(run)


def _peak_memory(run: RunDir, prepared: Prepared) -> int:
    """In bytes, of all processes that worked on this run."""
    return max(machine.peak_memory(prepared.base.device), run.manifest().get("peak_memory_bytes") or 0)


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


def _work(run: RunDir, prepared: Prepared, resume: bool, pause: Pause | None) -> None:
    config, task, method, base = prepared.config, prepared.task, prepared.method, prepared.base
    machine.reset_peak_memory()
    model, head = build.with_head(base, task, config)
    watch = _watch(prepared, model)
    _evaluate_base(run, prepared, watch)
    general = forgetting.before(run, prepared.general, base, model)
    beside.at_training(run, prepared)
    build.attach(method, task, model, head, config)
    start = scaling.start(model, config.train.max_forgetting)
    tuned = build.Tuned(base, task, method, model, head)
    score = partial(_scores, prepared, model, rows=None)
    retention.begin(run, prepared, tuned, score)
    trained = weights.trainable(model)
    run.update_manifest(
        parameters={
            "total": sum(p.numel() for p in model.parameters()),
            "trainable": sum(p.numel() for p in trained.values()),
        }
    )
    now = _loop(run, prepared, tuned, resume, pause)
    told = _forgetting(run, prepared, watch, general, start)
    found = {split: _scores(prepared, model, split, None) for split in prepared.scored}
    for split, results in found.items():
        write_results(run, split, prepared.splits[split], task, results, beside.of(run, split))
    if processes.first():
        with writing(run.model) as scratch:
            tuned.save(scratch)
    run.update_manifest(
        status="completed",
        finished=timestamp(),
        steps=now.step,
        best_step=now.best_step or now.step,
        stopped_early=now.stopped_early,
        supervised_tokens=now.targets,
        tokens=now.tokens,
        seconds=round(now.seconds, 3),
        tokens_per_second=round(now.tokens / max(now.seconds, 1e-9), 1),
        peak_memory_bytes=_peak_memory(run, prepared),
        metrics=found["validation"].metrics,
        test_metrics=found["test"].metrics if "test" in found else None,
        adapter_bytes=prediction.adapter_bytes(run.model),
        weights=digests(run.model),
        verdicts=beside.verdicts(run, task, {split: results.metrics for split, results in found.items()}),
        forgetting=told,
        retention=retention.end(run, prepared, found["validation"], score),
        overfitting=overfitting.found(run, run.manifest().get("base_losses"), _kept(config, now)),
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights in a run's ``model/``, by file: what is exported later must be what was scored."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def _kept(config: Config, now: Progression) -> int:
    """The step whose weights the run keeps."""
    return now.best_step if config.train.keep == "best" and now.best_step else now.step


def _watch(prepared: Prepared, model: nn.Module) -> Watch:
    training, validation = (prepared.splits[split].rows for split in ("train", "validation"))
    return Watch(
        model,
        prepared.task,
        overfitting.sample(training, len(validation)),
        settings(prepared.config, prepared.base, 0),
        prepared.base.tokenizer.pad_token_id or 0,
        lambda: _scores(prepared, model, "validation", 0),
    )


def _forgetting(
    run: RunDir, prepared: Prepared, watch: Watch, before: Measured | None, start: dict[str, torch.Tensor]
) -> dict[str, Any] | None:
    """Scale what was learnt if a bound was set, then measure what is forgotten: ``forgetting`` of the manifest."""
    rows, bound = prepared.general, prepared.config.train.max_forgetting
    if rows is None or before is None:
        return None
    chosen: dict[str, float | None] = {}
    if bound is not None:
        say("looking for the best scale of what was learnt")
        base = Point(0.0, run.manifest()["base_losses"]["validation"], before.loss, 0.0)
        chosen = scaling.choose(run, watch, prepared.method, rows, start, base, bound)
    return {**forgetting.compared(rows, before, forgetting.measure(rows, watch.model, watch.pad_id)), **chosen}


def _loop(run: RunDir, prepared: Prepared, tuned: build.Tuned, resume: bool, pause: Pause | None) -> Progression:
    config = prepared.config
    accelerator = Accelerator(
        cpu=prepared.base.device.type == "cpu", log_with=list(config.train.trackers) or None, project_dir=run.path
    )
    if config.train.trackers:
        accelerator.init_trackers(
            "tunery",
            {f"{s}.{k}": str(v) for s, d in config.dump().items() if isinstance(d, dict) for k, v in d.items()},
        )
    trainer = trainer_of(run, prepared, tuned, accelerator, pause)
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


def trainer_of(
    run: RunDir, prepared: Prepared, tuned: build.Tuned, accelerator: Accelerator, pause: Pause | None = None
) -> Trainer:
    """The loop over this run's rows, before its first step."""
    config = prepared.config
    watch = _watch(prepared, tuned.model)
    torch.manual_seed(config.train.seed + 2 + 1000 * accelerator.process_index)  # each its own dropout
    return Trainer(
        tuned.model,
        prepared.task,
        prepared.method,
        prepared.splits["train"].rows,
        config.train,
        run,
        accelerator,
        tuned.tokenizer.pad_token_id or 0,
        watch.evaluate,
        0 if config.eval.every == "epoch" else int(config.eval.every),
        pause,
        watch.losses,
        prepared.joined,
    )


def settings(config: Config, base: Base, generate_rows: int | None) -> Settings:
    """How this run is evaluated."""
    return Settings(
        metrics=config.eval.metrics,
        batch_size=config.eval.batch_size,
        batch_tokens=config.train.micro_tokens,
        max_length=config.data.max_length or 512,
        max_prompt=max_prompt(config, base),
        sampling=Sampling(max_new_tokens=config.eval.max_new_tokens),
        generate_rows=generate_rows,
    )


def _scores(prepared: Prepared, model: nn.Module, split: str, rows: int | None) -> Results:
    """Numbers on a split. Test rows are all answered; of the validation rows ``eval.generate_rows``."""
    if rows is None and split != "test":
        rows = prepared.config.eval.generate_rows
    given = prepared.split(split)
    found = evaluate(
        model,
        prepared.task,
        prepared.base.tokenizer,
        given.examples,
        given.rows,
        settings(prepared.config, prepared.base, rows),
    )
    if 0 < found.generated_rows < len(given.examples):
        say(f"{split}: answered {found.generated_rows} of {len(given.examples)} rows (eval.generate_rows)")
    return found


def _evaluate_base(run: RunDir, prepared: Prepared, watch: Watch) -> None:
    """The same numbers for the untouched model, to stand beside the tuned ones, and both losses."""
    loss = None
    for split in prepared.scored if prepared.config.eval.base else ():
        key = "base_metrics" if split == "validation" else "base_test_metrics"
        if key not in run.manifest():
            say(f"scoring the base model on {split} rows")
            results = _scores(prepared, watch.model, split, None)
            write_results(run, f"{split}-base", prepared.splits[split], prepared.task, results)
            run.update_manifest(**{key: results.metrics})
            loss = results.loss if split == "validation" else loss
    wanted = prepared.config.eval.base or prepared.config.train.max_forgetting is not None
    if wanted and "base_losses" not in run.manifest():
        loss = watch.scores().loss if loss is None else loss
        run.update_manifest(base_losses={"training": watch.training(), "validation": loss})
