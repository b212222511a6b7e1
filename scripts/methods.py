"""Generate what the documentation and ``tunery methods`` say of the common suite's results, docs/suite.json.

``python scripts/methods.py`` writes the tables of docs/methods.md and docs/zh/methods.md, each between
``<!-- suite:NAME -->`` and ``<!-- /suite -->``, and src/tunery/methods/refusals.json; with ``--check`` nothing is
written, stale files are named and the exit code is 1. The suite itself fails when it finds something else than
docs/suite.json says; ``pytest tests/test_suite.py --update-suite`` writes that.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docs import table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "suite.json"
REFUSALS = ROOT / "src" / "tunery" / "methods" / "refusals.json"
PAGES = {"en": ROOT / "docs" / "methods.md", "zh": ROOT / "docs" / "zh" / "methods.md"}
WORDS = {
    "en": {"method": "method", "task": "task", "models": "models", "reason": "reason", "all": "all {n}", "none": "no"},
    "zh": {"method": "方法", "task": "任务", "models": "模型", "reason": "原因", "all": "全部 {n}", "none": "不支持"},
}
WORDS["en"] |= {"some": "{k} of {n}", "failed": "{k} fail", "cells": "{ok} work, {refused} are refused, {failed} fail"}
WORDS["zh"] |= {"some": "{n} 中 {k}", "failed": "{k} 失败", "cells": "{ok} 项可用，{refused} 项被拒绝，{failed} 项失败"}
Cells = dict[tuple[str, str, str], dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    cells = {_key(name): value for name, value in json.loads(RESULTS.read_text(encoding="utf-8")).items()}
    stale = []
    for path, text in files(cells):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: stale, run python scripts/methods.py" if "--check" in arguments else f"{name}: written")
    return 1 if stale and "--check" in arguments else 0


def _key(name: str) -> tuple[str, str, str]:
    method, task, model = name.split("-")
    return method, task, model


def files(cells: Cells) -> Iterator[tuple[Path, str]]:
    """Every generated file with the text that it should have."""
    for language, path in PAGES.items():
        words, text = WORDS[language], path.read_text(encoding="utf-8")
        for name in re.findall(r"<!-- suite:(\w+) -->", text):
            mark = re.compile(rf"(<!-- suite:{name} -->\n).*?(<!-- /suite -->)", re.DOTALL)
            made = block(name, cells, words)
            text = mark.sub(lambda found, made=made: found[1] + made + found[2], text)
        yield path, text
    yield REFUSALS, json.dumps(refusals(cells), indent=1, ensure_ascii=False) + "\n"


def block(name: str, cells: Cells, words: dict[str, str]) -> str:
    blocks = {"cells": matrix, "refusals": reasons, "tasks": task_reasons, "count": count}
    if name not in blocks:
        raise SystemExit(f"no block is called {name!r}; known: {', '.join(blocks)}")
    return blocks[name](cells, words)


def matrix(cells: Cells, words: dict[str, str]) -> str:
    """Methods by tasks: on how many of the architectures that the task can use at all."""
    methods, tasks = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
    rows = []
    for method in methods:
        row = [f"`{method}`"]
        for task in tasks:
            states = [v["status"] for key, v in _usable(cells).items() if key[:2] == (method, task)]
            row.append(_share(states, words))
        rows.append(row)
    return table([words["method"], *(f"`{task}`" for task in tasks)], rows)


def _share(states: list[str], words: dict[str, str]) -> str:
    good, bad = states.count("ok"), states.count("failed")
    if bad:
        return words["failed"].format(k=bad)
    if good in (0, len(states)):
        return words["all"].format(n=good) if good else words["none"]
    return words["some"].format(k=good, n=len(states))


def count(cells: Cells, words: dict[str, str]) -> str:
    states = [value["status"] for value in cells.values()]
    text = words["cells"].format(**{state: states.count(state) for state in ("ok", "refused", "failed")})
    return f"{len(cells)}: {text}\n"


def reasons(cells: Cells, words: dict[str, str]) -> str:
    rows = [
        [f"`{method}`", _code(each["tasks"]), ", ".join(each["models"]), each["reason"]]
        for method, found in refusals(cells).items()
        for each in found
    ]
    return table([words["method"], words["task"], words["models"], words["reason"]], rows)


def task_reasons(cells: Cells, words: dict[str, str]) -> str:
    """What no method can do, because the task does not go with the architecture."""
    usable, first = _usable(cells), next(iter(cells))[0]
    lost = {key: value for key, value in cells.items() if key not in usable and key[0] == first}
    rows = [[_code(each["tasks"]), ", ".join(each["models"]), each["reason"]] for each in _grouped(lost)]
    return table([words["task"], words["models"], words["reason"]], rows)


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _usable(cells: Cells) -> Cells:
    """Without the pairs of task and architecture that all methods are refused."""
    lost = {key[1:] for key in cells} - {key[1:] for key, value in cells.items() if value["status"] != "refused"}
    return {key: value for key, value in cells.items() if key[1:] not in lost}


def refusals(cells: Cells) -> dict[str, list[dict[str, Any]]]:
    """By method, what it refuses where others do not."""
    refused = {key: value for key, value in _usable(cells).items() if value["status"] == "refused"}
    methods = dict.fromkeys(key[0] for key in cells)
    return {m: _grouped({key: value for key, value in refused.items() if key[0] == m}) for m in methods}


def _grouped(refused: Cells) -> list[dict[str, Any]]:
    """Tasks and models under the reason that they share; the name of a class does not make another reason."""
    found: dict[str, dict[str, Any]] = {}
    for (_, task, model), value in refused.items():
        reason = re.sub(r"\b[A-Z]\w+For[A-Z]\w+\b", "the model", value["reason"])
        each = found.setdefault(re.sub(rf"\b{model}[\w-]*\b", "…", reason), {"tasks": [], "models": []})
        each["tasks"] += [task] * (task not in each["tasks"])
        each["models"] += [model] * (model not in each["models"])
    return [{**each, "reason": reason} for reason, each in found.items()]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
