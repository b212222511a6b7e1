"""Which method to try: every rule in one table, shown with the advice and in the documentation.

A rule that applies gives points to methods; the methods with most points are the short list, which is then measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LARGE, HUGE = 500_000_000, 3_000_000_000
"""Parameters from which a base counts as large, and as too large to train as a whole on a usual machine."""
FEW, MANY = 200, 5_000
"""Rows up to which they are few, and from which they are many."""
SHOTS = 32
"""Rows a class up to which a classification is few-shot."""
UNKNOWN, PIECES = 0.05, 1.2
"""Share of unknown tokens, and tokens a character, from which a base is taken not to know the language."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at."""

    family: str
    parameters: int
    task: str
    writes: bool
    """Whether the output is text."""
    rows: int
    classes: int
    """0 for tasks without any."""
    unknown: float
    """Share of the data's tokens that the base has no token for."""
    pieces: float
    """Tokens a character of the data."""
    quantised: bool
    full_fits: bool
    """Whether training all parameters would fit into memory, by estimate."""
    variants: bool = False
    """The user needs many variants on one base."""
    latency: bool = False
    """Answers must come as fast as from the base alone."""

    @property
    def foreign(self) -> bool:
        return self.unknown > UNKNOWN or self.pieces > PIECES

    @property
    def few_shot(self) -> bool:
        return self.rows <= FEW or (self.classes > 0 and self.rows <= SHOTS * self.classes)


@dataclass(frozen=True, slots=True)
class Rule:
    """``applies`` in words is ``when``; ``points`` go to methods; ``why`` says where it is from."""

    name: str
    when: str
    applies: Callable[[Facts], bool]
    points: Mapping[str, int]
    why: str
    advice: str = ""
    """What else to do than to choose a method."""


RULES: tuple[Rule, ...] = (
    Rule(
        "start", "always", lambda f: True, {"lora": 3, "full": 2, "adapter": 2, "ia3": 1, "freeze": 1},
        "over many tasks LoRA and adapters come near full fine-tuning with a hundredth of its parameters "
        "(arXiv:2106.09685, 1902.00751; docs/results.md)",
    ),
    Rule(
        "small base", f"fewer than {LARGE / 1e6:.0f} M parameters",
        lambda f: f.parameters < LARGE, {"full": 1, "freeze": 1},
        "training everything is cheap, and was best on sst2 with minilm (docs/results.md)",
    ),
    Rule(
        "large base", f"{LARGE / 1e6:.0f} M parameters or more",
        lambda f: f.parameters >= LARGE, {"lora": 1, "prompt": 1, "prefix": 1, "full": -1},
        "soft prompts come near full fine-tuning only as bases grow (arXiv:2104.08691); full takes 16 bytes each",
    ),
    Rule(
        "huge base", f"{HUGE / 1e9:.0f} B parameters or more, not quantised",
        lambda f: f.parameters >= HUGE and not f.quantised, {"lora": 1, "full": -3},
        "in 4 bits it takes a quarter of the memory (QLoRA, arXiv:2305.14314)", "model.quantise=nf4",
    ),
    Rule(
        "quantised base", "model.quantise is set", lambda f: f.quantised, {"lora": 2, "full": -9, "freeze": -9},
        "weights in 4 or 8 bits cannot be trained themselves",
    ),
    Rule(
        "memory", "full would not fit into the memory that is free", lambda f: not f.full_fits,
        {"full": -9, "lora": 1, "ia3": 1}, "master copies and moments take 12 bytes for each trained parameter",
    ),
    Rule(
        "few rows", f"up to {FEW} rows, or up to {SHOTS} a class", lambda f: f.few_shot,
        {"ia3": 1, "bitfit": 1, "prefix": 1, "full": -1, "freeze": -1},
        "with few rows few parameters are enough and may do better (IA3: arXiv:2205.05638, prefix: 2101.00190)",
    ),
    Rule(
        "few rows to classify", "the same, and the task is classify",
        lambda f: f.few_shot and f.task == "classify", {},
        "a template with label words needs no new head: .84 on sst2 with 32 rows and smollm2 (docs/results.md)",
        "try task=cloze with a decoder or an encoder that has its masked-language head",
    ),
    Rule(
        "many rows", f"{MANY:,} rows or more", lambda f: f.rows >= MANY,
        {"full": 1, "lora": 1, "prompt": -1, "p_tuning": -1},
        "what more parameters can hold, more rows fill",
    ),
    Rule(
        "label or number", "an encoder that classifies, scores or tags",
        lambda f: f.family == "encoder" and not f.writes,
        {"full": 1, "lora": 1, "bitfit": 1, "prompt": -2, "p_tuning": -2},
        "input vectors alone move a small encoder little (P-tuning v2, arXiv:2110.07602)",
    ),
    Rule(
        "new knowledge", "a small base learns to write", lambda f: f.writes and f.parameters < LARGE,
        {"lora": 1, "adapter": 1, "prompt": -1, "p_tuning": -1, "ia3": -1},
        "facts need parameters: on the shop's facts adapters reached .97, a prefix .83 (docs/results.md)",
    ),
    Rule(
        "many variants", "--variants", lambda f: f.variants,
        {"full": -4, "freeze": -3, "lora": 1, "ia3": 2, "prompt": 2, "prefix": 2, "adapter": 1, "bitfit": 1},
        "one base in memory, and for each variant a small file that is switched",
    ),
    Rule(
        "latency", "--latency", lambda f: f.latency,
        {"full": 1, "freeze": 1, "lora": 1, "ia3": 1, "bitfit": 1, "adapter": -3, "prefix": -1, "prompt": -2,
         "p_tuning": -2},
        "what merges into the base costs nothing at inference; adapters add layers, prompts add tokens",
    ),
    Rule(
        "foreign language",
        f"more than {UNKNOWN:.0%} unknown tokens, or more than {PIECES:g} tokens a character",
        lambda f: f.foreign, {"full": 1, "ia3": -1, "prompt": -3, "p_tuning": -3, "prefix": -2},
        "the base hardly knows the script of the data: no method gives it what it never read; on Chinese reviews "
        "minilm stays below naive Bayes",
        "take a base that knows the language (for Chinese google-bert/bert-base-chinese or Qwen/Qwen3-0.6B)",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ranked:
    """A method with its points, and the names of the rules that gave them."""

    method: str
    points: int
    reasons: tuple[str, ...]


def rank(facts: Facts, methods: list[str]) -> list[Ranked]:
    """Best first; of equal points those in the order of the names."""
    found = []
    for method in methods:
        given = [(rule, rule.points[method]) for rule in RULES if method in rule.points and rule.applies(facts)]
        reasons = tuple(f"{rule.name} {points:+d}" for rule, points in given)
        found.append(Ranked(method, sum(points for _, points in given), reasons))
    return sorted(found, key=lambda each: (-each.points, each.method))


# ----------------------------------------------------------------------------------------------- settings

EPOCHS = {
    "full": (3, 2), "freeze": (3, 3), "lora": (3, 3), "adalora": (5, 5), "adapter": (3, 3), "bitfit": (4, 4),
    "ia3": (4, 4), "prefix": (5, 5), "prompt": (8, 8), "p_tuning": (8, 8),
}  # fmt: skip
"""Passes over some thousand rows, for encoders and for bases that write: what few parameters learn takes longer."""
STEPS, MOST_EPOCHS = 150, 20
"""Steps below which a training with few rows is made longer, and how long at most."""
BATCH = {"encoder": 32, "decoder": 8, "encoder-decoder": 8}


def suggested(method: str, family: str, rows: int) -> dict[str, float]:
    """``epochs`` and ``batch_size`` to start from; the learning rate is the method's own default."""
    batch = BATCH.get(family, 8)
    while batch > 4 and rows < 20 * batch:
        batch //= 2
    epochs = EPOCHS.get(method, (3, 3))[0 if family == "encoder" else 1]
    steps = max(rows / batch, 1)
    return {"epochs": min(max(epochs, round(STEPS / steps)), max(MOST_EPOCHS, epochs)), "batch_size": batch}
