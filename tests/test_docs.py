"""The documentation: generated parts are fresh, every command and every Python snippet runs, links lead somewhere.

The commands are run as they are printed, document by document, in a folder with the examples. What stands in is
underneath: tiny models in the cache where the packs would be and where a hub id would lead, and trainings of two
steps. Nothing is fetched.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

import exports
import served
import tiny
import trials
from small import one_thread  # noqa: F401
from tunery import config, registry
from tunery.cli import main
from tunery.cli._app import tunery
from tunery.models import cache, hub, packs
from tunery.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import docs as generator  # noqa: E402

PAGES = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
PAIRS = [(f"docs/{name}.md", f"docs/zh/{name}.md") for name in ("data", "training", "evaluation", "from-tutorials")]
PAIRS.append(("docs/plan.md", "docs/zh/plan.md"))
PAIRS.append(("docs/report.md", "docs/zh/report.md"))
PAIRS.append(("docs/forgetting.md", "docs/zh/forgetting.md"))
PAIRS.append(("docs/prompts.md", "docs/zh/prompts.md"))
PAIRS.append(("docs/compare.md", "docs/zh/compare.md"))
PAIRS.append(("docs/curve.md", "docs/zh/curve.md"))
PAIRS.append(("docs/search.md", "docs/zh/search.md"))
PAIRS.append(("docs/serve.md", "docs/zh/serve.md"))
PAIRS.append(("docs/export.md", "docs/zh/export.md"))
PAIRS.append(("docs/continue.md", "docs/zh/continue.md"))
PAIRS.append(("docs/batch.md", "docs/zh/batch.md"))
PAIRS.append(("docs/deploy.md", "docs/zh/deploy.md"))
PAIRS.append(("README.md", "README.zh.md"))
VERBS = tunery.list_commands(click.Context(tunery))
BLOCK = re.compile(r"^```(\w+)(?:[ \t]+(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""Written by make real and make bench, so not there before the first of them."""
CHATTED = "Hello\n/new\n你好\n/exit\n"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it shows if one is named, its text."""

    language: str
    file: str
    text: str


@dataclass(frozen=True)
class Command:
    """A tunery command line: its arguments, what is piped into it, variables set before it."""

    args: list[str]
    stdin: str
    variables: dict[str, str]


def blocks(page: Path) -> list[Block]:
    return [Block(*(part or "" for part in found)) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(block: Block) -> Iterator[Command]:
    """The tunery commands of a shell block; anything else in it is not ours to run."""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        text, variables = CHATTED, {}
        if words[:1] == ["echo"] and "|" in words:
            text, words = words[1] + "\n", words[words.index("|") + 1 :]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            variables |= dict([words.pop(0).split("=", 1)])
        if ">" in words:
            words = words[: words.index(">")]
        if words[:1] == ["tunery"]:
            yield Command(words[1:], text, variables)


def every_command(page: Path) -> list[Command]:
    return [c for block in blocks(page) if block.language in ("bash", "console") for c in commands(block)]


@pytest.fixture
def stand_ins(
    tiny_llama: Path, tiny_bert: Path, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Tiny models in place of packs and hubs; two training steps, answers of four tokens."""
    from tunery.run import train as training

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    for name, source in (("smollm2", tiny_llama), ("minilm", tiny_bert)):
        pack = packs.PACKS[name]
        cache.build(pack.folder, partial(_fill, source), layout=packs.LAYOUT, wheel_sha256=pack.sha256)

    def found(name: str, *_: Any) -> Path:
        known = {"bert": packs.PACKS["minilm"].folder, "gpt2": tiny_gpt2}
        return next((folder for key, folder in known.items() if key in name.lower()), packs.PACKS["smollm2"].folder)

    monkeypatch.setattr(hub, "fetch", found)
    monkeypatch.setattr(hub, "modelscope", found)
    whole = training.train

    def short(given: config.Config, pause: Any = None) -> RunDir:
        train = given.train.model_copy(update={"max_steps": 2})
        evaluation = given.eval.model_copy(update={"max_new_tokens": 4, "generate_rows": 2})
        return whole(given.model_copy(update={"train": train, "eval": evaluation}), pause)

    monkeypatch.setattr(training, "train", short)
    trials.in_process(monkeypatch)
    exports.in_process(monkeypatch)
    stop = served.in_process(monkeypatch)
    yield
    stop()


def _fill(source: Path, target: Path) -> None:
    """A model folder as a pack has it: contexts as long as SmolLM2's, vectors that are means."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    if "Llama" in (source / "config.json").read_text():
        tiny.edit_config(target, max_position_embeddings=8192)
    else:
        (target / "1_Pooling").mkdir()
        (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, as the clone has them, but only the first rows of the larger files."""
    folder = tmp_path / "work"
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, rows in (("support.jsonl", 40), ("support_test.jsonl", 8), ("intents.csv", 100)):
        lines = (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "examples" / name).write_text("".join(lines[:rows]), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("stand_ins", "one_thread")
def test_what_is_printed_runs(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a document shows are written, its commands and snippets run, in the order of reading."""
    space: dict[str, Any] = {}
    for block in blocks(ROOT / name):
        if block.file:
            (workplace / block.file).parent.mkdir(parents=True, exist_ok=True)
            (workplace / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, name, "exec"), space)
        elif block.language in ("bash", "console"):
            for command in commands(block):
                run(command, monkeypatch, capsys)


def run(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if {"gguf", "gguf_lora", "ollama"} & set(command.args) and find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed (it compiles llama.cpp): tunery[llama]")
    if command.args[0] == "resume":  # as if that run had been interrupted
        RunDir(Path(command.args[1])).update_manifest(status="interrupted")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr("sys.stdin", io.StringIO(command.stdin))
        for key, value in command.variables.items():
            patch.setenv(key, value)
        main(command.args)
    printed = capsys.readouterr()
    assert not left.value.code, f"tunery {shlex.join(command.args)}\n{printed.err}"
    if "--json" in command.args:
        json.loads(printed.out)


def test_generated_parts_are_fresh() -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, text in generator.documents()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"python scripts/docs.py writes {', '.join(stale)}"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    missing = [t for t in targets if t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("name", NAMES)
def test_configuration_keys_exist(name: str) -> None:
    """`train.lr` in a text must be a key, of a section or of some task or method."""
    known = {section: set(model.model_fields) for section, model in config.SECTIONS.items()}
    for kind in ("task", "method"):
        known[kind] = {key for each in registry.names(kind) for key in registry.config_class(kind, each).model_fields}
    text = (ROOT / name).read_text(encoding="utf-8")
    for section, key in re.findall(rf"`({'|'.join(known)})\.(\w+)\b(?!\()[^`]*`", text):
        assert key in known[section] or key in ("py", "json", "md", "jsonl", "csv", "yaml", "gguf"), f"{section}.{key}"


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_show_the_same_verbs(english: str, chinese: str) -> None:
    shown = [{command.args[0] for command in every_command(ROOT / page)} for page in (english, chinese)]
    assert shown[0] == shown[1] and shown[0] <= set(VERBS)


def test_the_readmes_show_the_tour() -> None:
    tour = ["init", "check", "show", "train", "eval", "predict", "chat"]
    for page in ("README.md", "README.zh.md", "docs/zh/快速上手.md"):
        found = [command.args[0] for command in every_command(ROOT / page)]
        assert [verb for verb in dict.fromkeys(found) if verb in tour] == tour, page


def test_the_guides_name_every_plugin() -> None:
    for page in ("README.md", "README.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for kind in ("method", "task", "format"):
            assert not [name for name in registry.names(kind) if f"`{name}`" not in text], page  # type: ignore[arg-type]
