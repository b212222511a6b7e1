"""The training loop: one step reads from top to bottom in ``Trainer.step``.

Loss is summed over supervised tokens and divided once per optimizer step by their number over all forward
passes and processes, so accumulation 4 x batch 2 equals batch 8 and two processes equal one. The position in
the data follows from the step number alone; that, the masters and moments, and torch's random state are all
that resuming exactly needs.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from tunery import scoring
from tunery.config import TrainConfig
from tunery.data.batch import Batching
from tunery.data.encoded import lengths
from tunery.errors import ModelError, Paused
from tunery.models import machine, weights
from tunery.models.attention import choose_attention
from tunery.protocols import Encoded, Method, Task
from tunery.rundir import RunDir
from tunery.train import checkpoint
from tunery.train.optim import Optimizer, lr_factor
from tunery.train.progress import Evaluation, Progress, StopRequest

Evaluate = Callable[[], dict[str, float]]
Pause = Callable[[Evaluation], bool]
"""Asked after each evaluation; True: write a checkpoint and stop here, to go on another time."""


@dataclass(slots=True)
class Progression:
    """Where training stands; all of it is in every checkpoint."""

    step: int = 0
    targets: int = 0
    """Supervised tokens (or rows) learnt from so far."""
    tokens: int = 0
    """Real tokens read so far, padding not counted."""
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    """Evaluations since the best one."""
    stopped_early: bool = False


class Trainer:
    """Trains what ``method`` freed in ``model``.

    Args:
        rows: the training rows; an epoch sees each once.
        evaluate: numbers on the validation rows, or None if there are none.
        evaluate_every: optimizer steps between evaluations; 0: at the end of each epoch.
        pause: asked after each evaluation whether to stop here.
        losses: what is logged beside the validation numbers, called after ``evaluate``.
        joined: lay the rows of a forward pass end to end.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        method: Method,
        rows: Sequence[Encoded],
        config: TrainConfig,
        run: RunDir,
        accelerator: Accelerator,
        pad_id: int,
        evaluate: Evaluate | None,
        evaluate_every: int = 0,
        pause: Pause | None = None,
        losses: Evaluate | None = None,
        joined: bool = False,
    ) -> None:
        if config.lr is None:
            raise ValueError("the learning rate must be resolved before training")
        self.model, self.task, self.method = model, task, method
        self.rows, self.config, self.run = rows, config, run
        self.accelerator, self.pad_id = accelerator, pad_id
        self.batching = Batching(config, joined)
        self.evaluate, self.pause, self.losses = evaluate, pause, losses
        self.lengths = lengths(rows)
        self.rows_per_step = config.batch_size * config.accumulate * accelerator.num_processes
        self.steps_per_epoch = math.ceil(len(rows) / self.rows_per_step)
        epochs = math.ceil(config.epochs * self.steps_per_epoch)
        self.total_steps = epochs if config.max_steps is None else config.max_steps
        self.evaluate_every = evaluate_every or self.steps_per_epoch
        self.warmup = round(config.warmup * self.total_steps) if config.warmup < 1 else int(config.warmup)
        self.optimizer = Optimizer(method.groups(model), config.lr, config.weight_decay)
        method.begin(model, self.total_steps)
        self.now = Progression()
        self._plan: tuple[int, list[list[int]]] = (-1, [])

    # --------------------------------------------------------------------------------------- one step

    def step(self) -> dict[str, float]:
        """One optimizer step → what to log."""
        began = time.perf_counter()
        loss_sum, count = 0.0, 0
        tokens = 0
        for batch in self._batches():
            choose_attention(self.model, batch["input_ids"].shape, batch["input_ids"].device, self.batching.joined)
            loss, targets, _ = self.task.loss(self.model, batch)
            self.accelerator.backward(loss)
            self.optimizer.collect()
            loss_sum, count = loss_sum + float(loss.detach()), count + int(targets)
            tokens += int(batch["attention_mask"].sum())
        if self.accelerator.num_processes > 1:
            loss_sum, count, tokens = self._over_processes(loss_sum, count, tokens)
            self.optimizer.add_up(lambda tensor: self.accelerator.reduce(tensor, "sum"))
        factor = lr_factor(self.config.schedule, self.now.step, self.total_steps, self.warmup)
        self.now.step += 1
        norm = self.optimizer.step(
            1 / max(count, 1),
            self.config.clip,
            factor,
            lambda weights: self.method.before_step(self.model, self.now.step, weights),
        )
        self.method.after_step(self.model, self.now.step, self.optimizer.weights())
        self.now.targets += count
        self.now.tokens += tokens
        seconds = time.perf_counter() - began
        self.now.seconds += seconds
        loss_mean = loss_sum / max(count, 1)
        if not math.isfinite(loss_mean):
            raise self._lost("the loss", loss_mean)
        return {
            "loss": loss_mean,
            "lr": (self.config.lr or 0.0) * factor,
            "grad_norm": norm,
            "tokens_per_second": tokens / seconds,
        }

    def _lost(self, what: str, value: float) -> ModelError:
        hint = "lower train.lr, or set model.dtype=float32"
        return ModelError(f"{what} is {value} at step {self.now.step}", hint, "train.lr")

    def _batches(self) -> list[dict[str, Tensor]]:
        """This process's share of the step's rows, a batch for each forward pass."""
        epoch, position = divmod(self.now.step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self.batching.plan(self.lengths, self.rows_per_step, epoch))
        numbers = self._plan[1][position]
        mine = numbers[self.accelerator.process_index :: self.accelerator.num_processes]
        cuts = self.batching.cut(mine, self.lengths)
        return [self.batching.batch([self.rows[i] for i in cut], self.pad_id, self.accelerator.device) for cut in cuts]

    def _over_processes(self, loss: float, count: int, tokens: int) -> tuple[float, int, int]:
        values = torch.tensor([loss, count, tokens], dtype=torch.float64, device=self.accelerator.device)
        summed = self.accelerator.reduce(values, "sum").tolist()
        return summed[0], int(summed[1]), int(summed[2])

    def _agreed(self, stop: StopRequest) -> bool:
        """A signal may reach one process a step before the others; all must stop at the same one."""
        if self.accelerator.num_processes == 1:
            return stop.requested is not None
        mine = torch.tensor(stop.requested or 0, device=self.accelerator.device)
        agreed = int(self.accelerator.reduce(mine, "sum")) > 0
        if agreed and stop.requested is None:
            stop.requested = signal.SIGTERM
        return agreed

    # -------------------------------------------------------------------------------------- the whole

    def train(self, progress: Progress, stop: StopRequest) -> Progression:
        """Until the last step, early stopping, or a request to stop: then a checkpoint is written and Interrupted
        raised, or Paused if it was ``pause`` that asked.
        """
        self.model.train()
        heap = machine.Heap()
        while self.now.step < self.total_steps and not self.now.stopped_early:
            record = self.step()
            heap.tend()
            at = {"step": self.now.step, "epoch": round(self.now.step / self.steps_per_epoch, 4)}
            self._log({**at, **record})
            progress.step(self.now.step, record)
            if self._due(self.evaluate_every) or self.now.step == self.total_steps:
                metrics = self._evaluate(at, progress)
                pausing = self._pausing(metrics)
                if pausing or (self.config.checkpoint_every is None and self.now.step < self.total_steps):
                    self.save()
                if pausing:
                    where = str(self.run.path)
                    raise Paused(f"paused at step {self.now.step}", f"tunery resume {where}", where)
            if self.config.checkpoint_every and self._due(self.config.checkpoint_every):
                self.save()
            if self._agreed(stop) and self.now.step < self.total_steps:
                self.save()
                stop.leave(self.run.path)
        self._settle()
        return self.now

    def _due(self, every: int) -> bool:
        return self.now.step % every == 0

    def _pausing(self, metrics: dict[str, float]) -> bool:
        """Not at the end, where there is nothing left to go on with."""
        if self.pause is None or self.now.stopped_early:
            return False
        asked = self.pause(Evaluation(self.run.path, self.now.step, self.total_steps, self.now.seconds, metrics))
        return asked and self.now.step < self.total_steps

    def _evaluate(self, at: dict[str, float], progress: Progress) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        metrics = self._of_first(self.evaluate())
        if not math.isfinite(metrics[self.task.monitor]) or not math.isfinite(metrics.get("loss", 0.0)):
            raise self._lost("the validation loss", metrics.get("loss", metrics[self.task.monitor]))
        beside = {"losses": self.losses()} if self.losses else {}
        self._log({**at, "validation": metrics, **beside})
        progress.evaluated(self.now.step, metrics)
        if not self.method.complete(self.now.step):
            return metrics
        value = metrics[self.task.monitor]
        sign = 1 if scoring.number_names()[self.task.monitor].higher_is_better else -1
        best = self.now.best
        if best is None or sign * (value - best) > self.config.min_delta:
            self.now.best, self.now.best_step, self.now.best_metrics = value, self.now.step, metrics
            self.now.waited = 0
            if self.config.keep == "best" and self.accelerator.is_main_process:
                checkpoint.save_best(self.run.checkpoints, self.now.step, self._weights())
        else:
            self.now.waited += 1
            if self.config.patience is not None and self.now.waited >= self.config.patience:
                self.now.stopped_early = True
        return metrics

    def _of_first(self, metrics: dict[str, float]) -> dict[str, float]:
        """The first process's numbers: a last bit of difference must not make one of them stop early alone."""
        if self.accelerator.num_processes > 1:
            (metrics,) = broadcast_object_list([metrics])
        return metrics

    def _settle(self) -> None:
        """Put the weights in place that the run keeps."""
        self.accelerator.wait_for_everyone()  # the first process may still be writing the best ones
        best = self.now.best_step
        if self.config.keep == "best" and best and best != self.now.step:
            tensors = checkpoint.read_best(self.run.checkpoints, best)
            state = {name[len("method/") :]: t for name, t in tensors.items() if name.startswith("method/")}
            plain = {name: t for name, t in tensors.items() if not name.startswith("method/")}
            weights.load_into(self.model, plain, self.run.checkpoints)
            self.method.load_train_state(self.model, state)
        self.model.eval()

    def _weights(self) -> dict[str, Tensor]:
        state = {f"method/{name}": t for name, t in self.method.train_state(self.model).items()}
        return {**weights.trainable(self.model), **state}

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.log_metrics(record)
            flat = {k: v for k, v in record.items() if isinstance(v, int | float)}
            for name in ("validation", "losses"):
                flat |= {f"{name}/{k}": v for k, v in record.get(name, {}).items()}
            self.accelerator.log(flat, step=self.now.step)

    # ------------------------------------------------------------------------------- save and resume

    def save(self) -> None:
        random = checkpoint.of_processes(gather_object([checkpoint.random_state()]))  # each draws its own dropout
        if self.accelerator.is_main_process:
            tensors = {
                "optimizer": self.optimizer.state(),
                "random": random,
                "method": self.method.train_state(self.model),
            }
            checkpoint.save(self.run.checkpoints, self.now.step, tensors, asdict(self.now))
            checkpoint.prune_best(self.run.checkpoints, {self.now.best_step})
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; False if there is none (training then starts anew)."""
        path = checkpoint.newest(self.run.checkpoints)
        if path is None:
            self.run.truncate_metrics(0)
            return False
        groups, state = checkpoint.read(path)
        self.now = Progression(**state)
        self.run.truncate_metrics(self.now.step)
        self.optimizer.load_state(groups["optimizer"])
        self.method.load_train_state(self.model, groups.get("method", {}))
        checkpoint.set_random_state(groups["random"], self.accelerator.process_index)
        return True
