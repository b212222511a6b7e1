"""Generate docs/cli.md and the marked tables of the other documents from the code.

``python scripts/docs.py`` writes; with ``--check`` nothing is written, stale files are named and the exit code is 1.
A marked table stands between ``<!-- generated:NAME -->`` and ``<!-- /generated -->``. In one that is called
``NAME:zh`` the last column is written by hand, in Chinese, and kept; a row that is new there starts in English, and
columns without a Chinese title are left out.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from tunery import config, errors, registry
from tunery.cli._app import tunery
from tunery.cli.plan import points_of
from tunery.config import steps
from tunery.data import templates
from tunery.decide import rules
from tunery.models import packs
from tunery.protocols import Strict

ROOT = Path(__file__).resolve().parent.parent
CLI = ROOT / "docs" / "cli.md"
MARK = re.compile(r"(<!-- generated:([\w:-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
ZH = {"name": "名称", "formats": "数据格式", "needs": "必需列", "may have": "可选列", "task": "默认任务"}
ZH |= {"merges": "可合并", "summary": "说明", "code": "退出码", "meaning": "含义", "verb": "命令", "does": "作用"}
ZH |= {"number": "指标", "better": "方向", "for": "适用", "package": "PyPI 包", "parameters": "参数量"}
ZH |= {"licence": "许可", "metrics": "默认指标", "method": "方法", "yes": "是", "no": "否", "higher": "越高越好"}
ZH |= {"keys": "参数", "kind": "类型", "dtype": "精度", "checked with": "用什么检查"}
ZH |= {"mean KL at most": "平均 KL 上限", "top-1 at least": "top-1 下限"}
ZH |= {"spread of the seeds": "种子间的散布", "runs a side": "每边运行数", "over rows alone": "只管行"}
ZH |= {"two-level bootstrap": "两层 bootstrap", "rows and seeds": "行和种子"}
ZH |= {"none": "没有", "small": "小", "large": "大"}
ZH |= {"extra": "名称", "rule": "规则", "points": "加减分", "why": "条件和理由"}
ZH |= {
    "lower": "越低越好",
    "classes": "分类",
    "multilabel": "多标签",
    "text": "文本",
    "numbers": "数值",
    "loss": "损失",
    "tags": "标注",
    "encoder, 23 M": "编码器，23 M",
    "decoder, 135 M": "解码器，135 M",
    "decoder, 7 B": "解码器，7 B",
}
BY_HAND = ("summary", "meaning", "does", "why")
"""Last columns that are written by hand in Chinese."""
Rows = list[list[str]]


def main(arguments: Sequence[str]) -> int:
    stale = []
    for path, text in documents():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: stale, run python scripts/docs.py" if "--check" in arguments else f"{name}: written")
    return 1 if stale and "--check" in arguments else 0


def documents() -> Iterator[tuple[Path, str]]:
    """Every generated document with the text that it should have."""
    yield CLI, cli_page()
    for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]:
        if path != CLI:
            text = path.read_text(encoding="utf-8")
            yield path, MARK.sub(lambda match: match[1] + block(match[2], match[0]) + match[3], text)


def block(name: str, old: str) -> str:
    """A table by name. ``old``: what stands there now, for the texts that are kept."""
    name, _, language = name.partition(":")
    if name == "layers":
        return layers()
    if name not in TABLES:
        raise SystemExit(f"no table is called {name!r}; known: layers, {', '.join(TABLES)}")
    head, rows = TABLES[name]()
    if language != "zh":
        return table(head, rows)
    kept = {cells[0]: cells[-1] for line in old.splitlines() if (cells := _cells(line)) and head[-1] in BY_HAND}
    shown = [i for i, title in enumerate(head) if title in ZH]
    texts = [[*(ZH.get(cell, cell) for cell in row[:-1]), kept.get(row[0], row[-1])] for row in rows]
    return table([ZH[head[i]] for i in shown], [[row[i] for i in shown] for row in texts])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(line: str) -> list[str]:
    parts = [part.strip().replace("\\|", "|") for part in re.split(r"(?<!\\)\|", line)]
    return parts[1:-1] if len(parts) > 2 else []


def code(values: Sequence[str]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "–"


# ---------------------------------------------------------------------------------------------- tables


def _each(kind: registry.Kind) -> list[Any]:
    return [registry.get(kind, name) for name in registry.names(kind)]


def methods() -> tuple[list[str], Rows]:
    rows = [[f"`{m.name}`", m.saves, "yes" if m.merges else "no", m.paper, m.summary] for m in _each("method")]
    return ["name", "saves", "merges", "paper", "summary"], rows


def tasks() -> tuple[list[str], Rows]:
    rows = [[f"`{t.name}`", code(t.formats), code(t.metrics), t.summary] for t in _each("task")]
    return ["name", "formats", "metrics", "summary"], rows


def formats() -> tuple[list[str], Rows]:
    found = _each("format")
    rows = [[f"`{f.name}`", code(f.columns), code(f.optional), f"`{f.task}`", f.summary] for f in found]
    return ["name", "needs", "may have", "task", "summary"], rows


def metrics() -> tuple[list[str], Rows]:
    rows = [
        [f"`{n.name}`", m.kind, "higher" if n.higher_is_better else "lower", n.summary]
        for m in _each("metric")
        for n in m.numbers
    ]
    return ["number", "for", "better", "summary"], rows


def pack_list() -> tuple[list[str], Rows]:
    rows = [
        [f"`{p.name}`", f"`{p.requirement}`", f"{p.parameters / 1e6:.1f} M", p.licence, p.summary]
        for p in packs.PACKS.values()
    ]
    return ["name", "package", "parameters", "licence", "summary"], rows


def exit_codes() -> tuple[list[str], Rows]:
    rows = [["0", "Done."], ["1", "A defect in tunery; the message names the file to report."]]
    own = (error for error in errors.TuneryError.__subclasses__() if error.__module__ == errors.__name__)
    classes = sorted(own, key=lambda error: error.code)
    return ["code", "meaning"], rows + [[str(error.code), inspect.cleandoc(error.__doc__ or "")] for error in classes]


def verbs() -> tuple[list[str], Rows]:
    found = [(name, command) for name, command, _ in _commands()]
    return ["verb", "does"], [[f"`{n}`", inspect.cleandoc(c.help or "").split("\n\n")[0]] for n, c in found]


def exports() -> tuple[list[str], Rows]:
    from tunery.export import kinds

    found = [kinds.get(name) for name in kinds.names()]
    rows = [[f"`{k.name}`", code(k.dtypes), f"`{k.consumer.replace('_', '-')}`", k.summary] for k in found]
    return ["kind", "dtype", "checked with", "summary"], rows


def bounds() -> tuple[list[str], Rows]:
    from tunery.export import parity

    rows = [[f"`{name}`", f"{b.kl:g}", f"{b.top1:.0%}", b.why] for name, b in parity.BOUNDS.items()]
    return ["dtype", "mean KL at most", "top-1 at least", "why"], rows


def cleaners() -> tuple[list[str], Rows]:
    return ["name", "keys", "summary"], [[f"`{c.name}`", step_keys(c), c.summary] for c in _each("cleaner")]


def augmenters() -> tuple[list[str], Rows]:
    return ["name", "keys", "summary"], [[f"`{a.name}`", step_keys(a), a.summary] for a in _each("augmenter")]


def step_keys(step: Any) -> str:
    return code([key for key in step.Config.model_fields if key != "name"])


def template_names() -> tuple[list[str], Rows]:
    def rendered(text: str) -> str:
        import jinja2

        turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
        return str(jinja2.Template(text).render(messages=turns, eos_token="END")).strip()  # noqa: S106

    rows = [[f"`{n}`", f"`{json.dumps(rendered(t), ensure_ascii=False)}`"] for n, t in templates.TEMPLATES.items()]
    return ["name", "summary"], rows


def learning_rates() -> tuple[list[str], Rows]:
    """What each method starts from with its own default keys."""
    sizes = [("encoder, 23 M", 22_713_216, "encoder"), ("decoder, 135 M", 134_515_008, "decoder")]
    sizes.append(("decoder, 7 B", 7_000_000_000, "decoder"))
    made = {method.name: method(method.Config()) for method in _each("method")}
    rows = [[f"`{name}`", *(f"{m.default_lr(n, family):g}" for _, n, family in sizes)] for name, m in made.items()]
    return ["method", *(title for title, *_ in sizes)], rows


def plan_rules() -> tuple[list[str], Rows]:
    found = [(rule, f"{rule.why}. → {rule.advice}" if rule.advice else rule.why) for rule in rules.RULES]
    return ["rule", "when", "points", "why"], [[r.name, r.when, points_of(r.points), why] for r, why in found]


def layers() -> str:
    """The contract of import-linter, top layer first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return "```text\n" + "".join(f"{line.replace('tunery.', '')}\n" for line in contract["layers"]) + "```\n"


EXTRAS = {
    "quantise": "models in 4 and 8 bits (QLoRA)",
    "excel": ".xlsx files",
    "arrow": "Parquet and Arrow files",
    "onnx": "export to ONNX",
    "modelscope": "models and datasets of ModelScope",
    "clean": "the cleaning steps `unicode`, `chinese`, `segment`",
    "tensorboard": "this tracker",
    "wandb": "this tracker",
    "mlflow": "this tracker",
    "trackio": "this tracker",
    "search": "`tunery search`",
    "llama": "exports for llama.cpp and Ollama; compiles for minutes",
    "postgres": "one search on several machines",
    "serve": "`tunery serve`",
    "trackers": "all four trackers",
    "all": "all but `llama`",
}
"""What each extra of pyproject.toml is for; ``dev`` is for those who work on tunery."""


def coverage() -> tuple[list[str], Rows]:
    """What ``benchmarks/decide.py coverage`` found."""
    found = json.loads((ROOT / "docs" / "benchmarks" / "decide.json").read_text(encoding="utf-8"))["coverage"]
    spreads = {0.0: "none", 0.1: "small", 0.3: "large"}
    kinds = {"rows": "over rows alone"} | {kind: kind for kind in ("two-level bootstrap", "rows and seeds")}
    rows = [[spreads[o["spread"]], str(o["runs_a_side"]), *(f"{o[kind]:.1%}" for kind in kinds)] for o in found]
    return ["spread of the seeds", "runs a side", *kinds.values()], rows


def extras() -> tuple[list[str], Rows]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = [name for name in found if name != "dev"]
    if set(names) != set(EXTRAS):
        raise SystemExit(f"EXTRAS does not fit pyproject.toml: {sorted(set(names) ^ set(EXTRAS))}")
    return ["extra", "summary"], [[f"`{name}`", EXTRAS[name]] for name in names]


TABLES: dict[str, Callable[[], tuple[list[str], Rows]]] = {
    "methods": methods,
    "tasks": tasks,
    "formats": formats,
    "metrics": metrics,
    "cleaners": cleaners,
    "augmenters": augmenters,
    "exports": exports,
    "bounds": bounds,
    "packs": pack_list,
    "exit-codes": exit_codes,
    "verbs": verbs,
    "templates": template_names,
    "learning-rates": learning_rates,
    "plan-rules": plan_rules,
    "extras": extras,
    "coverage": coverage,
}


# --------------------------------------------------------------------------------------------- cli.md


def cli_page() -> str:
    parts = [
        "# Command line and configuration\n\nGenerated by `python scripts/docs.py`; changes by hand are lost.\n\n"
        "Every verb takes `--json`: one JSON value on stdout, everything else on stderr. An error is then\n"
        '`{"error": {"problem", "where", "hint", "code"}}`.\n',
        f"## Exit codes\n\n{table(*exit_codes())}",
        f"## Verbs\n\n{table(*verbs())}",
        *(_verb(*each) for each in _commands()),
        "## Configuration keys\n\nIn `tunery.yaml`, or on the command line as `section.key=value` (YAML syntax).\n",
        *(f"### {name}\n\n{keys(name, model)}" for name, model in config.SECTIONS.items()),
    ]
    for kind in ("task", "method"):
        head = "Beside `name`, each has keys of its own.\n"
        parts.append(f"### {kind}\n\n{head}\n" + table(*(tasks() if kind == "task" else methods())))
        for name in registry.names(kind):
            parts.append(f"#### {kind}={name}\n\n{keys(kind, registry.config_class(kind, name))}")
    for kind, key in steps.KEYS.items():
        parts.append(f"### Steps of {key}\n\n" + table(*(cleaners() if kind == "cleaner" else augmenters())))
        for name in registry.names(kind):
            model = registry.config_class(kind, name)
            if len(model.model_fields) > 1:
                parts.append(f"#### {key}: {name}\n\n{keys(name, model)}")
    parts += [f"## Formats\n\n{table(*formats())}", f"## Metrics\n\n{table(*metrics())}"]
    parts.append(f"## Chat templates\n\n`task.template` of task `instruct`.\n\n{table(*template_names())}")
    parts.append(f"## Model packs\n\n{table(*pack_list())}")
    return "\n".join(parts)


def _commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    group = click.Context(tunery, info_name="tunery", **tunery.context_settings)
    for name in tunery.list_commands(group):
        command = tunery.get_command(group, name)
        assert command is not None
        yield name, command, click.Context(command, info_name=name, parent=group)


def _verb(name: str, command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    records = [p.get_help_record(context) for p in command.get_params(context) if isinstance(p, click.Option)]
    options = [[f"`{record[0]}`", " ".join(record[1].split())] for record in records if record]
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    return f"### tunery {name}\n\n```text\ntunery {name} {usage}\n```\n\n{text}\n\n{table(['option', 'help'], options)}"


def keys(section: str, model: type[Strict]) -> str:
    """A table of a section's keys."""
    fields = model.model_json_schema()["properties"]
    rows = []
    for key, field in model.model_fields.items():
        if key == "name" and section not in ("model", "run"):
            continue
        default = field.get_default(call_default_factory=True)
        shown = "–" if field.is_required() else f"`{json.dumps(default, ensure_ascii=False)}`"
        text = (field.description or "").replace("*", "\\*")
        rows.append([f"`{section}.{key}`", shown, values(fields[key]), text])
    return table(["key", "default", "values", "help"], rows) if rows else "No keys of its own.\n"


def values(schema: dict[str, Any]) -> str:
    """What a key may be, from its JSON schema, in words."""
    if "$ref" in schema:
        return "steps"
    if "anyOf" in schema:
        return " or ".join(values(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return code([str(value) for value in schema.get("enum", [schema.get("const")])])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {values(schema['items'])}"
    words = {"string": "text", "object": "mapping", "boolean": "true, false"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
