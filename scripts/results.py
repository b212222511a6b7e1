"""docs/results.md from what the benchmarks measured (docs/benchmarks/*.json). ``--check``: is it fresh?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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


def compared(found: dict[str, Any]) -> list[str]:
    rows, lost, width = found["rows"], found["not_called_a_tie"], found["mean_width"]
    lowest, highest = found["accuracy"]["lowest"], found["accuracy"]["highest"]
    shared = ", some in several pairs" if found["pairs_share_runs"] else ""
    return [
        "## A method against itself (`benchmarks/decide.py compare`)",
        "",
        f"{found['pairs']} pairs of `{found['method']}` with other seeds, from {found['runs']} trainings{shared}, on",
        f"{rows['train']} rows of sst2, test accuracies from {lowest:.4f} to {highest:.4f} on {rows['test']} rows.",
        "",
        "| interval over | runs a side | not called a tie | mean width of the interval |",
        "| --- | --- | --- | --- |",
        f"| rows | 1 | {lost['rows']} of {found['pairs']} | {width['rows']:.4f} |",
        f"| rows and seeds | {found['runs_a_side']} | {lost['rows and seeds']} of {found['pairs']} | "
        f"{width['rows and seeds']:.4f} |",
    ]


def searched(found: dict[str, Any]) -> list[str]:
    test, validation = found["test"], found["validation"]
    own = "tunery's own default"
    ended = ", ".join(f"{count} {status}" for status, count in found["trials"].items())
    best = ", ".join(f"{key}={value}" for key, value in found["best"].items())
    return [
        "## Search from a bad default (`benchmarks/decide_search.py`)",
        "",
        f"{found['method']} on {found['rows']['train']} rows of sst2, trials: {ended}; the best: `{best}`.",
        "",
        "| | validation | test |",
        "| --- | --- | --- |",
        f"| bad default | {validation['bad default']:.4f} | {test['bad default']:.4f} |",
        f"| {own} | | {test[own]:.4f} |",
        f"| best of the search | {validation['best']:.4f} | {test['best']:.4f} |",
    ]


def curves(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Scores of all rows, predicted from half of them (`benchmarks/decide.py curve`)",
        "",
        "| data | predicted, 95 % interval | width | measured, each seed | mean | inside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        low, high = one["interval"]
        measured = ", ".join(f"{value:.4f}" for value in one["measured"])
        lines.append(
            f"| {name} | {one['predicted']:.4f} ({low:.4f} to {high:.4f}) | {one['width']:.4f} | {measured} | "
            f"{one['measured_mean']:.4f} | {'yes' if one['inside'] else 'no'} |"
        )
    return lines


def prompts(found: dict[str, Any]) -> list[str]:
    rows, test, few = found["rows"], found["test"], found["test, first rows"]
    return [
        "## Prompts for smollm2 on sst2, zero-shot (`benchmarks/decide_prompts.py`)",
        "",
        f"{found['candidates']} candidates, searched on {rows['development']} development rows.",
        "",
        f"| | all {rows['test']} test rows | the first {rows['test, all candidates']} |",
        "| --- | --- | --- |",
        f"| found | **{test['best']:.4f}** | {few['best']:.4f} |",
        f"| the one by hand that the search thought best | {test['hand']:.4f} | |",
        f"| the one of the table above | {test['results.md']:.4f} | |",
        f"| median of the candidates | | {few['median of the candidates']:.4f} |",
        f"| lowest, highest | | {few['lowest']:.4f}, {few['highest']:.4f} |",
        f"| highest of those by hand | | {few['highest of those written by hand']:.4f} |",
    ]


def races(found: dict[str, Any]) -> list[str]:
    lines = ["## Races (`benchmarks/decide_race.py`)", ""]
    for name, one in found.items():
        lines.append(f"**{name}**, {one['wall']:.0f} s of {one['budget']:.0f} s: {one['recommendation']}")
        lines += [""] + [f"- {'ok' if check['ok'] else 'NOT'}: {check['what']}" for check in one["checks"]] + [""]
    return lines[:-1]


def plans(found: dict[str, Any]) -> list[str]:
    lines = [
        "## What `tunery plan` predicted (`benchmarks/decide_plan.py`)",
        "",
        "| model | method | seconds: predicted, actual | error | memory, GB: predicted, actual | error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, each in found.items():
        for method, one in each.items():
            if "problem" in one:
                lines.append(f"| {model} | {method} | {one['problem']} | | | |")
                continue
            time, memory = one["seconds"], one["memory"]
            lines.append(
                f"| {model} | {method} | {time['predicted']:.0f}, {time['actual']:.0f} | {time['error']:+.0%} | "
                f"{memory['predicted'] / 1e9:.2f}, {memory['actual'] / 1e9:.2f} | {memory['error']:+.0%} |"
            )
    return lines


def served(found: dict[str, Any]) -> list[str]:
    ours, alone, beside = found["serve"], found["one_at_a_time"], found["llama_cpp_server"]
    memory = ours["memory_bytes"]
    lines = [
        "## `tunery serve` under load (`benchmarks/serve.py`)",
        "",
        f"{ours['clients']} clients of {found['adapters']} LoRA adapters of smollm2 for {ours['seconds']:.0f} s,",
        f"answers of {found['most_tokens']} tokens at most, {found['cpus']} CPUs, clients included:",
        f"{ours['requests']} requests, {ours['lost']} lost, {ours['wrong']} with another adapter's answer;",
        f"median latency {ours['latency_median']:.2f} s, 95 % within {ours['latency_95']:.2f} s;",
        f"memory {memory['first'] / 1e9:.2f} GB after 10 s,",
        f"{memory['last'] / 1e9:.2f} GB at the end.",
        "",
        "| | tokens/s | serve is faster by |",
        "| --- | --- | --- |",
        f"| serve | {ours['tokens_per_second']:.1f} | |",
        f"| `Run.generate`, one request after the other | {alone['tokens_per_second']:.1f} | {found['ratio']:.2f} |",
    ]
    name = "llama-cpp-python's server, one adapter merged"
    if "left_out" in beside:
        return [*lines, f"| {name} | left out: {beside['left_out']} | |"]
    ratio = ours["tokens_per_second"] / beside["tokens_per_second"]
    return [*lines, f"| {name}, `{beside['file']}` | {beside['tokens_per_second']:.1f} | {ratio:.2f} |"]


def gguf(found: dict[str, Any]) -> list[str]:
    lines = [
        "## A run in llama.cpp (`benchmarks/gguf_parity.py`)",
        "",
        f"{found['base']}, trained in {found['trained_in']}, through the parity gate on its test rows. Same answers:",
        "questions that llama.cpp answers with the same greedy text as the run's weights do in fp32, and as they did",
        "when the run was evaluated, in the dtype it was trained in. Facts: answers that have their key fact.",
        "",
        "| export | MB | rows | token ids equal | top-1 | KL, mean | same answers: fp32, evaluated | facts: both |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found["exports"].items():
        facts = ", ".join(f"{one['metrics'][side]['contains']:.4f}" for side in ("run", "export"))
        same = f"{one['same_answers']:.1%}, {one['same_answers_as_evaluated']:.1%}"
        lines.append(
            f"| {name} | {one['bytes'] / 1e6:.1f} | {one['rows']} | {one['token_ids_equal']:.0%} | "
            f"{one['top1']:.2%} | {one['kl_mean']:.2g} | {same} | {facts} |"
        )
    for one in found.get("corrupted", []):
        said = f"refused: {one['said']}" if one["refused"] else "**published**"
        lines += ["", f"With other values in `{one['matrix']}`: {said}."]
    return lines


def continued(found: dict[str, Any]) -> list[str]:
    bounds = found["bounds"]
    settings = ", ".join(f"`{setting}`" for setting in found["settings"]) or "those of the parent"
    lines = [
        "## A run that is continued with ten new facts (`benchmarks/continue.py`)",
        "",
        f"The support run of `make demo`, which answers {found['parent']['old_right']} old test questions and "
        f"{found['parent']['new_right']} of the new ones. Settings: {settings}.",
        "",
        f"| `train.replay` | old rows replayed | seconds | new test questions right (asked: {bounds['learnt']:.0%}) | "
        f"of the old right answers still right (asked: {bounds['kept']:.0%}) | all old ones right |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["runs"]:
        lines.append(
            f"| {one['share']} | {one['replayed']} | {one['seconds']:.0f} | "
            f"{one['new_right']} of {one['new_questions']} | "
            f"{one['still_right']} of {one['right_before']} ({one['kept']:.0%}) | "
            f"{one['old_right']} of {one['old_questions']} |"
        )
    return lines


def text() -> str:
    decided = read("decide.json")
    sections: list[tuple[Callable[[dict[str, Any]], list[str]], dict[str, Any]]] = [
        (accuracy, read("accuracy.json")),
        (methods, read("methods.json")),
        (data, read("data.json")),
        (sft, read("sft.json")),
        (gguf, read("gguf.json")),
        (races, read("decide_race.json")),
        (plans, read("plan.json")),
        (compared, decided.get("compare", {})),
        (curves, decided.get("curve", {})),
        (searched, decided.get("search", {})),
        (prompts, read("decide_prompts.json")),
        (served, read("serve.json")),
        (continued, read("continue.json")),
    ]
    parts = [HEAD, *("\n".join(section(found)) + "\n" for section, found in sections if found)]
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
