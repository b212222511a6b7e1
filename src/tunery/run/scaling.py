"""How much of what was learnt to keep: the best scale whose forgetting stays under a bound (``train.max_forgetting``).

What training changed is put in by a share of it: scale 0 is the bare base, 1 what was trained (LoRA's B, an adapter's
second matrix, AdaLoRA's singular values; for other methods all trained weights, between where they began and where
they ended: Wortsman et al. 2022, arXiv:2109.01903). The chosen scale is baked into the weights that the run saves, so
plain peft and everything else that loads them needs to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from tunery.models import weights
from tunery.protocols import Method
from tunery.run import forgetting, processes
from tunery.run.forgetting import General
from tunery.run.overfitting import Watch
from tunery.run.records import say
from tunery.rundir import RunDir, write_json

FINEST = 40
"""Scales are multiples of 1/40; those of 4/40 are the eleven of a plain grid."""
GRID = 4
QUALITY = "loss"
"""What ``quality`` is, for readers of ``forgetting.json``."""


@dataclass(frozen=True, slots=True)
class Point:
    """One scale on the curve."""

    scale: float
    quality: float
    """Loss on the validation rows, by which every task that writes text is judged: the lower, the better."""
    loss: float
    """On general text."""
    forgetting: float
    """That loss over the base's, less 1."""


class Search:
    """Finds the best scale under a bound with six to ten measurements.

    Quality is taken to have one optimum, and forgetting to pass the bound once; then a gap on either side of the best
    point so far can be halved without losing anything, until its neighbours on the grid of eleven are known. It is then
    as good as the whole grid, and better by two halvings. Where the points contradict that, the whole grid is measured.

    Args:
        measure: the point of a scale.
        bound: the largest forgetting.
    """

    def __init__(self, measure: Callable[[float], Point], bound: float) -> None:
        self.measure, self.bound = measure, bound
        self.points: dict[int, Point] = {}

    def run(self, base: Point, trained: Point) -> Point | None:
        """The best point under the bound; None if none is better than the base."""
        self.points = {0: base, FINEST: trained}
        for number in (3 * GRID, 6 * GRID):
            self._visit(number)
        self._close_in()
        if not self._one_peak():
            for number in range(0, FINEST, GRID):
                self._visit(number)
        for step in (GRID // 2, GRID // 4):
            self._refine(step)
        best = self.points[self._best()]
        return best if best.quality < base.quality else None

    @property
    def curve(self) -> list[Point]:
        return [self.points[number] for number in sorted(self.points)]

    def _visit(self, number: int) -> None:
        if number not in self.points:
            self.points[number] = self.measure(number / FINEST)

    def _allowed(self, number: int) -> bool:
        return number == 0 or self.points[number].forgetting <= self.bound

    def _best(self) -> int:
        allowed = [number for number in sorted(self.points) if self._allowed(number)]
        return min(allowed, key=lambda number: self.points[number].quality)

    def _close_in(self) -> None:
        """Halve the gaps beside the best point until its neighbours on the grid are known."""
        while True:
            best = self._best()
            around = [number for number in (best - GRID, best + GRID) if 0 <= number <= FINEST]
            missing = [number for number in around if number not in self.points]
            if not missing:
                return
            known = sorted(self.points)
            if missing[0] < best:
                other = max(number for number in known if number < best)
            else:
                other = min(number for number in known if number > best)
            self._visit((best + other) // 2 // GRID * GRID)

    def _one_peak(self) -> bool:
        """Whether the points under the bound lie together, and their loss falls and then rises."""
        known = sorted(self.points)
        allowed = [self._allowed(number) for number in known]
        if allowed != sorted(allowed, reverse=True):
            return False
        losses = [self.points[number].quality for number in known if self._allowed(number)]
        low = losses.index(min(losses))
        falling, rising = losses[: low + 1], losses[low:]
        return falling == sorted(falling, reverse=True) and rising == sorted(rising)

    def _refine(self, step: int) -> None:
        """Look half-way to the neighbours of the best point, first on the side where the loss is lower."""
        best = self._best()
        sides = [side for side in (-1, 1) if best + 2 * step * side in self.points]  # else that side is ruled out
        sides.sort(key=lambda side: self.points[best + 2 * step * side].quality)
        for side in sides:
            self._visit(best + step * side)
            beyond = self.points[best + 2 * step * side].quality
            if self._best() != best or beyond < self.points[best].quality:
                return  # the optimum lies on that side


# ---------------------------------------------------------------------------------------------- in a run


def start(model: nn.Module, bound: float | None) -> dict[str, Tensor]:
    """The trained parameters as they are before the first step; nothing where no scale will be looked for."""
    return {} if bound is None else _copies(model)


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in weights.trainable(model).items()}


def choose(
    run: RunDir, watch: Watch, method: Method, rows: General, start: dict[str, Tensor], base: Point, bound: float
) -> dict[str, float | None]:
    """Look for the scale and leave the model at it; at 1, as trained, if there is none. Writes ``forgetting.json``.

    Returns ``bound``, ``scale`` (None: there is none) and ``unscaled``, the forgetting at scale 1.
    """
    trained = _copies(watch.model)

    def put(scale: float) -> None:
        weights.blend(watch.model, start, trained, scale, method.scaled())

    def measure(scale: float) -> Point:
        put(scale)
        loss = forgetting.measure(rows, watch.model, watch.pad_id, questions=False).loss
        return Point(scale, watch.scores().loss, loss, forgetting.relative(base.loss, loss))

    search, at_one = Search(measure, bound), measure(1.0)
    best = search.run(base, at_one)
    scale = best.scale if best else None
    put(1.0 if scale is None else scale)
    if processes.first():
        curve = [asdict(point) for point in search.curve]
        write_json(run.forgetting_file, {"bound": bound, "quality": QUALITY, "scale": scale, "curve": curve})
    say(_told(best, at_one, bound, len(search.points)))
    return {"bound": bound, "scale": scale, "unscaled": at_one.forgetting}


def _told(best: Point | None, trained: Point, bound: float, measured: int) -> str:
    if best is None:
        return (
            f"no scale of what was learnt keeps forgetting within {bound:.2%} and beats the base model; the weights "
            f"stay as trained, with forgetting {trained.forgetting:+.2%}"
        )
    return (
        f"scale {best.scale:g} of what was learnt is the best within {bound:.2%} of forgetting: validation loss "
        f"{best.quality:.4f} (as trained {trained.quality:.4f}), forgetting {best.forgetting:+.2%} (as trained "
        f"{trained.forgetting:+.2%}); {measured} scales compared"
    )
