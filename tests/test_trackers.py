"""A tracker hears what metrics.jsonl says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.small import labelled, log, one_thread, train, write

__all__ = ["one_thread"]


def test_tensorboard_gets_every_step(tiny_bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = write(tmp_path / "a.jsonl", labelled(40))
    run = train(tmp_path, tiny_bert, data, train__epochs=2, train__trackers=["tensorboard"])
    files = list(run.path.rglob("events.out.tfevents*"))
    assert files, "nothing was written into the run"
    seen: dict[str, list[tuple[int, float]]] = {}
    for folder in {file.parent for file in files}:
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["scalars"]:
            seen[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    steps = [(record["step"], record["loss"]) for record in log(run) if "loss" in record]
    assert [step for step, _ in seen["loss"]] == [step for step, _ in steps]
    assert [value for _, value in seen["loss"]] == pytest.approx([value for _, value in steps], rel=1e-6)
    assert len(seen["validation/accuracy"]) == 2
