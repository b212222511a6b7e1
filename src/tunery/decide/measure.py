"""Measure pieces of a training, in a process of its own: ``python -m tunery.decide.measure``.

The path is that of ``run.train``: prepare, score the base, fit the baselines, attach the method, ``Trainer.step``,
evaluate, save. Of each only so much is done as a prediction needs. The job comes as one line of JSON on stdin; lines of
JSON go out on stdout: what the methods say against this base (``refusals``), and last ``measured``, ``refused`` or
``failed``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from tunery import config as configuration
from tunery import registry
from tunery.decide import pieces
from tunery.errors import ConfigError, TuneryError
from tunery.models import machine, weights
from tunery.run import beside, build, cost, forgetting, prediction
from tunery.run.prepare import Prepared, prepare
from tunery.run.train import trainer_of
from tunery.rundir import RunDir
from tunery.train.loop import Trainer

Tell = Callable[[dict[str, Any]], None]


def measure(config: configuration.Config, folder: Path, known: dict[str, Any], tell: Tell) -> None:
    """``known``: ``writing`` and ``base_answers`` where an earlier candidate has found them out."""
    began = time.perf_counter()
    prepared = prepare(config)
    loading = time.perf_counter() - began
    shape = prediction.shape_of(prepared)
    run = RunDir(folder)
    run.update_manifest(status="measuring")
    machine.reset_peak_memory()
    (model, head), seconds = pieces.timed(lambda: build.with_head(prepared.base, prepared.task, prepared.config))
    loading += seconds
    tell({"kind": "refusals", "refusals": refusals(prepared, model)})
    base_reading = pieces.reading(prepared, model, pieces.SIZES)
    writing, answers = pieces.writing(prepared, model, known)
    forgetting.before(run, prepared.general, prepared.base, model)  # kept in the cache: no run does it again
    _, baselines = pieces.timed(lambda: beside.at_training(run, prepared))
    _, seconds = pieces.timed(lambda: build.attach(prepared.method, prepared.task, model, head, prepared.config))
    loading += seconds
    tuned = build.Tuned(prepared.base, prepared.task, prepared.method, model, head)
    trainer, seconds = pieces.timed(lambda: _trainer(run, prepared, tuned))
    loading += seconds
    steps = pieces.Steps(trainer, prepared)
    steps.measure()
    pieces.reading(prepared, model)
    reading = pieces.reading(prepared, model)  # in training it is done again and again: what counts is the second time
    ratio = pieces.writing_ratio(prepared, model, writing)
    extra = {}
    if (rows := prepared.general) is not None:
        pad = prepared.base.tokenizer.pad_token_id or 0
        _, extra["general text"] = pieces.timed(lambda: forgetting.measure(rows, model, pad))
    written, per_byte = pieces.write_checkpoint(trainer, run)
    adapter, saving = pieces.save(tuned, run.model, per_byte)
    measured = cost.Measured(
        loading=loading,
        baselines=baselines,
        base_reading=base_reading,
        reading=reading,
        step=steps.warm,
        first=steps.first,
        checkpoint=written,
        saving=saving,
        writing=writing,
        writing_ratio=ratio,
        base_answers=answers,
        largest=shape.largest,
        kinds=len(steps.kinds),
        peak_memory=machine.peak_memory(prepared.base.device),
        growth=steps.growth,
        extra=extra,
    )
    key = prediction.key_of(prepared)
    prediction.keep(key, measured)
    parameters = [p.numel() for p in model.parameters()]
    tell(
        {
            "kind": "measured",
            "key": key,
            "measured": measured.to_json(),
            "steps": shape.steps,
            "trainable": sum(p.numel() for p in weights.trainable(model).values()),
            "total": sum(parameters),
            "adapter_bytes": adapter,
            "step_seconds": steps.named,
        }
    )


def refusals(prepared: Prepared, model: nn.Module) -> dict[str, str]:
    """Reasons of the methods that do not go with this task and base, with their own default keys."""
    found: dict[str, str] = {}
    for name in registry.names("method"):
        made = registry.get("method", name)
        own = prepared.method if name == prepared.method.name else made(made.Config(name=name))
        if reason := own.refuses(prepared.task, model):
            found[name] = reason
    return found


def _trainer(run: RunDir, prepared: Prepared, tuned: build.Tuned) -> Trainer:
    accelerator = Accelerator(cpu=prepared.base.device.type == "cpu", project_dir=run.path)
    return trainer_of(run, prepared, tuned, accelerator)


def main() -> None:
    """Do the job on stdin."""
    talking = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def tell(message: dict[str, Any]) -> None:
        talking.write(json.dumps(message) + "\n")
        talking.flush()

    job = json.loads(sys.stdin.readline())
    try:
        measure(configuration.build(job["config"]), Path(job["folder"]), job["known"], tell)
    except ConfigError as error:
        tell({"kind": "refused", "problem": error.problem, "hint": error.hint})
    except TuneryError as error:
        tell({"kind": "failed", "problem": error.problem, "hint": error.hint})
    except Exception as error:
        import traceback

        traceback.print_exc()
        tell({"kind": "failed", "problem": f"{type(error).__name__}: {error}", "hint": ""})


if __name__ == "__main__":
    main()
