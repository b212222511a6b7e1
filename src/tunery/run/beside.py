"""What stands beside the tuned model's numbers: baselines that need no model, fitted to the same training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunery import baselines
from tunery.config import Config
from tunery.errors import TuneryError
from tunery.protocols import Example, Task
from tunery.run import processes, replay
from tunery.run.prepare import Prepared
from tunery.run.records import say
from tunery.rundir import RunDir

Numbers = dict[str, dict[str, float]]


def at_training(run: RunDir, prepared: Prepared) -> None:
    """Score the baselines on the validation and test rows, once a run; the numbers go to the manifest."""
    config, task = prepared.config, prepared.task
    if not config.eval.baselines or not processes.first() or "baselines" in run.manifest():
        return
    fitted = baselines.fit(task, prepared.splits["train"].examples)
    found = {
        split: fitted.score(
            prepared.splits[split].examples,
            config.eval.metrics,
            config.eval.generate_rows if split == "validation" else None,
        )
        for split in prepared.scored
    }
    for note in fitted.notes:
        say(note)
    if fitted.guesses:
        say(f"baselines without a model: {', '.join(fitted.guesses)} ({fitted.seconds:.1f} s)")
    run.update_manifest(
        baselines=found["validation"],
        test_baselines=found.get("test", {}),
        baseline_seconds=round(fitted.seconds, 3),
    )


def at_evaluation(
    run: RunDir, config: Config, task: Task, examples: Sequence[Example], metrics: Sequence[str] | None
) -> Numbers:
    """The baselines on rows that are scored later. They are fitted again, to training files as they were."""
    if not config.eval.baselines or not len(examples):
        return {}
    try:
        dataset, _ = replay.load(config)
    except TuneryError as error:
        say(f"no baselines: the training rows cannot be read again ({error.problem})")
        return {}
    manifest = run.manifest()
    changed = [name for name, digest in dataset.hashes.items() if manifest["data"].get(name, digest) != digest]
    if changed:
        say(f"no baselines: {changed[0]} has changed since training")
        return {}
    fitted = baselines.fit(task, dataset.splits["train"])
    for note in fitted.notes:
        say(note)
    return fitted.score(examples, metrics)


def of(run: RunDir, split: str) -> Numbers:
    """What the training has found for a split."""
    return dict(run.manifest().get("baselines" if split == "validation" else f"{split}_baselines") or {})


def verdicts(run: RunDir, task: Task, tuned: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each split on which a baseline is better than the tuned model."""
    lines = (baselines.verdict(task, numbers, of(run, split), split) for split, numbers in tuned.items())
    return [line for line in lines if line]
