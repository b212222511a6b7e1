"""``tunery plan``: a short list of methods from the rules, and what each costs on this data and machine, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery import registry, rundir
from tunery.config import Config
from tunery.decide import memory, rules, watched
from tunery.errors import ConfigError, near
from tunery.models import machine
from tunery.protocols import Task
from tunery.run import cost, prediction, work
from tunery.run.prepare import Prepared, prepare
from tunery.run.records import say

SHORT = 4
"""Methods on the short list, where none are named."""
TEXTS = 500
"""Rows whose language is looked at."""
LANGUAGE_MODELS = ("instruct", "lm", "seq2seq", "cloze")
"""Tasks whose targets are tokens of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user needs beside a good score."""

    methods: tuple[str, ...] = ()
    """To be measured in any case; none: those that the rules put first."""
    variants: bool = False
    latency: bool = False
    memory: int | None = None
    """Bytes to plan for, if less than the machine has."""
    measure: bool = True


def plan(config: Config, wishes: Wishes | None = None, out: Path | None = None) -> dict[str, Any]:
    """What ``tunery plan --json`` prints; ``out``: a file to write it to as well.

    Measurements go to the cache, where runs of the same configuration find them (``run/prediction.py``).
    Raises TuneryError as ``train`` does for configuration, data and model; a method that fails is only listed.
    """
    wishes = wishes or Wishes()
    if unknown := [name for name in wishes.methods if name not in registry.names("method")]:
        raise ConfigError(f"unknown method {unknown[0]!r}", near(unknown[0], registry.names("method")), "--methods")
    if config.data.folds and not config.data.fold:  # each of its runs costs the same
        config = config.model_copy(update={"data": config.data.model_copy(update={"fold": 1})})
    prepared = prepare(config)
    free = machine.available_memory(prepared.base.device)
    if wishes.memory is not None:
        free = wishes.memory if free is None else min(free, wishes.memory)
    facts = facts_of(prepared, free, wishes)
    names = list(wishes.methods) or registry.names("method")
    ranked = rules.rank(facts, names)
    candidates = _candidates(config, prepared, facts, ranked, free, wishes)
    base = prepared.base
    found: dict[str, Any] = {
        "model": base.name,
        "parameters": base.parameters(),
        "task": prepared.task.name,
        "rows": {name: len(split.sources) for name, split in prepared.splits.items()},
        "machine": {
            "cpus": machine.threads(),
            "device": str(base.device),
            "dtype": str(base.dtype).removeprefix("torch."),
            "memory_bytes": free,
        },
        "rules": [
            {"rule": r.name, "when": r.when, "points": dict(r.points), "why": r.why, "advice": r.advice,
             "applies": r.applies(facts)}
            for r in rules.RULES
        ],
        "candidates": candidates,
        "recommended": _recommended(candidates),
    }  # fmt: skip
    if out is not None:
        rundir.write_json(out, found)
        found["written"] = str(out)
    return found


def facts_of(prepared: Prepared, free: int | None, wishes: Wishes) -> rules.Facts:
    """What the rules look at."""
    base, task = prepared.base, prepared.task
    unknown, pieces = language(prepared)
    full = needs_of(prepared, "full")
    return rules.Facts(
        family=base.family,
        parameters=base.parameters(),
        task=task.name,
        writes=task.output == "text",
        rows=len(prepared.splits["train"].sources),
        classes=len(getattr(task, "labels", ())),
        unknown=unknown,
        pieces=pieces,
        quantised=base.quantised is not None,
        full_fits=free is None or full.estimate <= memory.FITS * free,
        variants=wishes.variants,
        latency=wishes.latency,
    )


def language(prepared: Prepared) -> tuple[float, float]:
    """Share of unknown tokens in the training texts, and tokens a character (white space not counted).

    A base that was not made for the script has no tokens for it, or one for each byte: English takes some 0.3 tokens
    a character, Chinese 0.6 to 1 with a tokenizer that knows it and 1.6 and more with one that does not.
    """
    tokenizer = prepared.base.tokenizer
    texts = [_text(example) for example in work.evenly(prepared.splits["train"].examples, TEXTS)]
    ids = [i for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in row]
    characters = sum(len("".join(text.split())) for text in texts)
    unknown = ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id not in (None, tokenizer.pad_token_id) else 0
    return unknown / max(len(ids), 1), len(ids) / max(characters, 1)


def _text(example: Any) -> str:
    answers = [message.content for message in example.messages if message.role == "assistant"]
    return " ".join([example.input_text, *answers])[:2000]


def needs_of(prepared: Prepared, method: str) -> memory.Needs:
    """What its memory depends on, by configuration and rows alone."""
    base, config = prepared.base, prepared.config
    training = work.training_work(prepared.splits["train"].rows, config.train, prepared.joined)
    count = base.parameters()
    layers = int(getattr(base.config, "num_hidden_layers", 12))
    shares = {"full": 1.0, "freeze": min(2 / layers, 1.0)}
    return memory.Needs(
        parameters=count,
        trained=int(count * shares.get(method, 0.02)),
        layers=layers,
        hidden=int(getattr(base.config, "hidden_size", 768)),
        vocabulary=_classes(prepared.task, base.config),
        tokens=training.largest[0],
        targets=training.largest[1],
        longest=training.longest,
        bytes=base.dtype.itemsize,
        quantise=base.quantised,
        checkpointing=config.train.gradient_checkpointing,
    )


def _classes(task: Task, config: Any) -> int:
    if task.name in LANGUAGE_MODELS:
        return int(getattr(config, "vocab_size", 0))
    return max(len(getattr(task, "labels", ())), 1)


# --------------------------------------------------------------------------------------------- candidates


def _candidates(
    config: Config,
    prepared: Prepared,
    facts: rules.Facts,
    ranked: Sequence[rules.Ranked],
    free: int | None,
    wishes: Wishes,
) -> list[dict[str, Any]]:
    """Every method in the order of the rules; those on the short list measured."""
    wanted = len(wishes.methods) or SHORT
    known: dict[str, Any] = {}
    refusals: dict[str, str] = {}
    found, tried = [], 0
    for each in ranked:
        candidate = _described(each, config, prepared, facts)
        found.append(candidate)
        needs = needs_of(prepared, each.method)
        estimate = needs.estimate
        if each.method in refusals:
            candidate |= {"status": "refused", "problem": refusals[each.method]}
        elif free is not None and estimate > memory.FITS * free:
            problem = f"it needs about {estimate / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
            candidate |= {"status": "too large", "problem": problem, "estimate_bytes": estimate}
            candidate["change"] = memory.changes(needs, free, each.method)
        elif tried < wanted and wishes.measure:
            say(f"measuring {each.method} ({tried + 1} of {wanted})")
            outcome = watched.run(_with_method(config, each.method), known, wishes.memory)
            refusals |= outcome.refusals
            tried += outcome.status != "refused"
            candidate |= _measured(outcome, prepared, each.method, candidate)
            if outcome.status == "measured":
                known = {key: outcome.found["measured"][key] for key in ("writing", "base_answers")}
            elif outcome.status == "too large":
                candidate["change"] = memory.changes(needs, estimate, each.method)  # clearly less than what was tried
    for candidate in found:  # known only after the first one was loaded
        if candidate["status"] == "not measured" and candidate["method"] in refusals:
            candidate |= {"status": "refused", "problem": refusals[candidate["method"]]}
    return found


def _with_method(config: Config, name: str) -> Config:
    if name == config.method_name:
        return config
    return config.model_copy(update={"method": registry.config_class("method", name).model_validate({"name": name})})


def _described(each: rules.Ranked, config: Config, prepared: Prepared, facts: rules.Facts) -> dict[str, Any]:
    method = registry.get("method", each.method)(_with_method(config, each.method).method)
    lr = method.default_lr(facts.parameters, facts.family)
    return {
        "method": each.method,
        "points": each.points,
        "reasons": list(each.reasons),
        "status": "not measured",
        "suggested": {"lr": lr, **rules.suggested(each.method, facts.family, facts.rows)},
    }


def _measured(
    outcome: watched.Outcome, prepared: Prepared, method: str, candidate: Mapping[str, Any]
) -> dict[str, Any]:
    if outcome.status != "measured":
        return {"status": outcome.status, "problem": outcome.problem}
    found = outcome.found
    measured = cost.Measured.from_json(found["measured"])
    as_it_is = prediction.of(prepared, measured, prediction.shape_of(prepared))
    train = prepared.config.train.model_copy(
        update={"epochs": candidate["suggested"]["epochs"], "batch_size": candidate["suggested"]["batch_size"],
                "accumulate": 1, "max_steps": None}
    )  # fmt: skip
    other = prediction.replaced(prepared, train)
    suggested = prediction.of(other, measured, prediction.shape_of(other))
    return {
        "status": "measured",
        "steps": found["steps"],
        "seconds_per_step": {
            name: {"value": sum(times) / len(times), "low": min(times), "high": max(times)}
            for name, times in found["step_seconds"].items()
            if times
        },
        "predicted": as_it_is.to_json(),
        "trainable_parameters": found["trainable"],
        "adapter_bytes": found["adapter_bytes"],
        "suggested": {**candidate["suggested"], "seconds": round(suggested.seconds.value, 1)},
    }


def _recommended(candidates: Sequence[Mapping[str, Any]]) -> str | None:
    """The first of the rules that was measured and fits."""
    return next((c["method"] for c in candidates if c["status"] == "measured"), None)
