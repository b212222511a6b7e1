"""docs/results.md from what the benchmarks measured (docs/benchmarks/*.json). ``--check``: is it fresh?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET = DOCS / "results.md"
HEAD = """# Results

Written by `python scripts/results.py` from what the programs in `benchmarks/` measured; no figure is typed in.
The machine is a shared virtual one with two CPUs: ratios within a run mean something, absolute times little.
"""


def read(name: str) -> dict[str, Any]:
    path = DOCS / "benchmarks" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def accuracy(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Scores on test rows, median of the seeds (`make real`)",
        "",
        "Each setting was tried with one seed; the best on the validation rows was trained with every seed, and only",
        "those runs met the test rows. Where one seed stands, one was run. The model is minilm; with 32 training rows",
        "(others for each seed, settings chosen on a fifth of the validation rows) smollm2. Scores are accuracies, of",
        "xquad and cmrc2018 answer F1.",
        "",
        "| experiment | tried: validation | chosen: validation, each seed | test, each seed | median | asked for |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        runs = one["runs"].values()
        tried = ", ".join(f"`{settings}` {value:.4f}" for settings, value in one["tried"].items())
        validation = ", ".join(f"{run['validation']:.4f}" for run in runs)
        test = ", ".join(f"{run['test']:.4f}" for run in runs)
        median, target = one["test_median"], one["target"]
        asked = "" if target is None else f"≥ {target}"
        lines.append(f"| {name} | {tried} | `{one['chosen']}` {validation} | {test} | **{median:.4f}** | {asked} |")
    return lines


def methods(found: dict[str, Any]) -> list[str]:
    lines = ["## Methods on smollm2 (`benchmarks/methods.py`)", ""]
    if alpaca := found.get("alpaca", {}):
        lines += [
            "Loss on the alpaca set's 50 validation rows after one epoch of its first rows; each method's defaults.",
            "",
            "| method | training rows | base | tuned | trained parameters |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, one in alpaca.items():
            losses = f"{one['base_loss']:.4f} | {one['loss']:.4f}"
            lines.append(f"| {name} | {one['rows']} | {losses} | {one['trainable']:,} |")
    if support := found.get("support", {}):
        lines += [
            "",
            "Share of the 72 test questions of `examples/support_test.jsonl` whose key fact is in the answer.",
            "",
            "| configuration | base | tuned | trained parameters |",
            "| --- | --- | --- | --- |",
        ]
        for one in support.values():
            shares = f"{one['base_contains']:.4f} | {one['contains']:.4f}"
            lines.append(f"| `{one['config']}` | {shares} | {one['trainable']:,} |")
    return lines


def data(found: dict[str, Any]) -> list[str]:
    check, encode = found["check"], found["encode"]
    lines = [
        "## Reading and encoding (`benchmarks/data.py`)",
        "",
        f"`tunery check` of {check['rows']:,} rows ({check['bytes'] / 1e6:,.0f} MB of JSONL), the whole process:",
        f"{check['seconds']:.0f} s, {check['peak_memory_bytes'] / 1e9:.2f} GB at most; tokens estimated from",
        f"{check['estimated_from']:,} rows.",
        "",
        f"Encoding {encode['rows']:,} alpaca rows for smollm2, medians of one run:",
        "",
        "| | seconds | tunery is faster by |",
        "| --- | --- | --- |",
        f"| tunery | {encode['tunery']:.1f} | |",
    ]
    for way, called in (("map_rows", "`datasets.map`, row by row"), ("map_batched", "`datasets.map`, batched")):
        lines.append(f"| {called} | {encode[way]:.1f} | {encode[way] / encode['tunery']:.2f} |")
    return lines


def sft(found: dict[str, Any]) -> list[str]:
    ours, theirs = found["tunery"], found["trainer"]
    rows = [
        ("real tokens per second", "tokens_per_second", 1.0, ".0f"),
        ("seconds of training", "seconds", 1.0, ".0f"),
        ("peak memory, GB", "peak_memory_bytes", 1e-9, ".2f"),
        ("validation loss per supervised token", "validation_loss", 1.0, ".4f"),
    ]
    lines = [
        "## LoRA instruction tuning beside `transformers.Trainer` + peft (`make bench`)",
        "",
        f"`smollm2` on the alpaca set ({found['rows']} training rows), batch 8, at most 512 tokens, r=8 on all linear",
        f"layers, one epoch, {found.get('threads', 2)} CPUs; both measured in one run.",
        "",
        "| | tunery | Trainer, fp32 | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for title, key, factor, form in rows:
        a, b = ours[key] * factor, theirs[key] * factor
        lines.append(f"| {title} | {a:{form}} | {b:{form}} | {a / b:.3f} |")
    return lines


def text() -> str:
    parts = [HEAD]
    if found := read("accuracy.json"):
        parts.append("\n".join(accuracy(found)) + "\n")
    if found := read("methods.json"):
        parts.append("\n".join(methods(found)) + "\n")
    if found := read("data.json"):
        parts.append("\n".join(data(found)) + "\n")
    if found := read("sft.json"):
        parts.append("\n".join(sft(found)) + "\n")
    return "\n".join(parts)


def main() -> int:
    if "--check" in sys.argv:
        if TARGET.read_text(encoding="utf-8") != text():
            print("docs/results.md is stale: run python scripts/results.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
