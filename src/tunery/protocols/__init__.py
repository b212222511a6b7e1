"""The seams: what a format, a task, a method, a metric and a step must offer, and the records that pass between them.

Data flows one way::

    file → Row → Example → Encoded → Batch → task.loss(model, batch)

A *task* says how an example becomes tokens, which head and loss it has and which metrics are natural.
A *method* says which parameters are trained and how they attach. Any method goes with any task, or refuses
with a reason. Nothing here imports torch: a plug-in imports it inside its functions, so that listing the
methods or checking a configuration costs nothing.
"""

from __future__ import annotations

from tunery.protocols.format import Format
from tunery.protocols.method import Method
from tunery.protocols.metric import Metric, Number
from tunery.protocols.plugin import Plugin, Strict
from tunery.protocols.records import (
    IGNORE,
    SOFT,
    Batch,
    Encoded,
    Example,
    Message,
    Position,
    Prediction,
    Row,
    Scored,
    SoftPlacement,
)  # fmt: skip
from tunery.protocols.steps import Augmenter, Cleaner
from tunery.protocols.task import Task

__all__ = [
    "IGNORE", "SOFT", "Augmenter", "Batch", "Cleaner", "Encoded", "Example", "Format", "Message", "Method", "Metric",
    "Number", "Plugin", "Position", "Prediction", "Row", "Scored", "SoftPlacement", "Strict", "Task",
]  # fmt: skip
