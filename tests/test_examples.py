"""The configurations in examples/: each loads strictly, trains on tiny models, and does what its tutorial did."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import tiny
import tunery
from small import log, one_thread, weights_of  # noqa: F401
from tunery import config as configuration
from tunery import registry
from tunery.data import cloze, soft
from tunery.protocols import IGNORE
from tunery.run import train as training
from tunery.run.dataset import load_dataset
from tunery.run.run import Run

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/**/*.yaml"))
METHODS = [name for name in NAMES if "/methods/" in name]
STAND_INS = {"smollm2": "llama", "minilm": "bert", "bert": "bert", "gpt2": "gpt2", "qwen": "qwen", "bloom": "bloom"}
"""What stands in for a model whose name contains the key."""

Trained = Callable[..., Run]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model in place of a name."""
    folder = tmp_path_factory.mktemp("stand-ins")
    builders = {**tiny.BUILDERS, "bloom": tiny.tiny_bloom}

    @cache
    def build(kind: str) -> Path:
        return builders[kind](folder / kind)

    return lambda name: build(next(kind for key, kind in STAND_INS.items() if key in name.lower()))


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the examples, of whose larger files only the first rows."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(ROOT / "examples", folder / "examples")
    for name, rows in (("support.jsonl", 24), ("support_test.jsonl", 4), ("intents.csv", 61), ("fields.jsonl", 24)):
        file = folder / "examples" / name
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:rows]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def trained(models: Callable[[str], Path], workplace: Path) -> Trained:
    """Train an example for two steps, once → its run."""

    @cache
    def train(name: str, *overrides: str) -> Run:
        model = f"model.name={models(configuration.load(name).model.name)}"
        short = ("model.dtype=float32", "train.max_steps=2", "eval.max_new_tokens=4", "eval.generate_rows=2")
        run = training.train(configuration.load(name, (model, *short, *overrides)))
        return tunery.load(workplace / run.path)

    return train


def rows_of(run: Run) -> tuple[list[Any], list[list[Any]]]:
    """The examples of a run's training file, and their encodings as the model reads them."""
    tuned, data = run.tuned, run.config.data
    examples = load_dataset(data, tuned.task.name, run.config.train.seed).splits["train"]
    length = data.max_length or 512
    return examples, [soft.encode(tuned.task, example, tuned.tokenizer, length) for example in examples]


@pytest.mark.parametrize("name", NAMES)
def test_every_example_trains(name: str, trained: Trained) -> None:
    run = trained(name)
    assert run.manifest["status"] == "completed"
    assert sum("loss" in record for record in log(run)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_in_its_comments_are_right(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    commands = re.findall(r"^#\s+tunery train (\S+)(.*)$", text, re.MULTILINE) or re.findall(
        r"tunery train (examples\S+)()", text
    )
    assert commands or name == "examples/support.yaml"  # which `make demo` runs
    for path, rest in commands:
        assert path == name
        configuration.load(ROOT / path, [word for word in rest.split() if "=" in word])


# --------------------------------------------------------------------------------------------- methods/


def test_every_method_has_an_example() -> None:
    named = {name: configuration.load(ROOT / name).method_name for name in METHODS}
    for method in registry.names("method"):
        assert named.get(f"examples/methods/{method}.yaml") == method


@pytest.mark.parametrize("name", METHODS)
def test_the_learning_rate_in_its_comment_is_the_default(name: str, trained: Trained) -> None:
    given = configuration.load(ROOT / name).train.lr
    if given is not None:  # another one than the default: the comment says why
        assert re.search(r"^  lr: \S+ +# \w", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert trained(name).config.train.lr == given
        return
    (found,) = re.findall(r"^  # lr: (\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert trained(name).config.train.lr == float(found)


# --------------------------------------------------------------------------------------- from_tutorials/


@pytest.mark.parametrize(
    ("name", "rank", "alpha", "dropout", "layers"),
    [
        ("gpt2-lora-8bit", 8, 32, 0.1, {"attn.c_attn", "attn.c_proj", "mlp.c_proj"}),
        ("llama-lora", 16, 32, 0.05, {"self_attn.q_proj", "self_attn.v_proj"}),
        ("instruct-zh", 16, 32, 0.05, {"self_attn.q_proj", "self_attn.v_proj"}),
    ],
)
def test_the_update_has_the_tutorials_rank_and_place(
    name: str, rank: int, alpha: int, dropout: float, layers: set[str], trained: Trained
) -> None:
    run = trained(f"examples/from_tutorials/{name}.yaml")
    written = json.loads((run.path / "model" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (written["r"], written["lora_alpha"], written["lora_dropout"]) == (rank, alpha, dropout)
    updates = {key: w for key, w in weights_of(run.path / "model").items() if "lora_A" in key}
    assert all(weight.shape[0] == rank for weight in updates.values())
    assert {".".join(key.split(".lora_A")[0].split(".")[-2:]) for key in updates} == layers
    assert (run.config.train.lr, run.config.train.batch_size, run.config.train.epochs) == (3e-4, 4, 3)


def test_gpt2_is_in_eight_bits(trained: Trained) -> None:
    model = trained("examples/from_tutorials/gpt2-lora-8bit.yaml").tuned.model
    assert "Linear8bitLt" in {type(module).__name__ for module in model.modules()}


def test_the_prefix_has_30_vectors_and_a_projection_of_512(trained: Trained) -> None:
    shapes = [
        list(w.shape)
        for w in weights_of(trained("examples/from_tutorials/prefix-wikitext.yaml").path / "model").values()
    ]
    assert [30, tiny.HIDDEN] in shapes  # what the projection reads
    assert [512, tiny.HIDDEN] in shapes


def test_the_prompt_has_the_tokens_of_its_text_or_as_many_as_are_asked_for(trained: Trained) -> None:
    chat = trained("examples/from_tutorials/bloom-prompt-chat.yaml")
    own = chat.tuned.tokenizer("下面是一段人与机器人的对话。", add_special_tokens=False)["input_ids"]
    assert [len(w) for w in weights_of(chat.path / "model").values()] == [len(own)]
    assert (chat.config.train.batch_size, chat.config.train.accumulate, chat.config.data.max_length) == (1, 8, 256)
    tweets = trained("examples/from_tutorials/tweet-prompt.yaml")
    assert [len(w) for w in weights_of(tweets.path / "model").values()] == [20]


@pytest.mark.parametrize(
    ("name", "before", "between"),
    [("instruct-zh", "指令：", "\n输出："), ("bloom-prompt-chat", "Human: ", "\nAssistant: ")],  # the space is learnt
)
def test_the_answer_and_its_end_are_learnt_and_the_question_is_not(
    name: str, before: str, between: str, trained: Trained
) -> None:
    run = trained(f"examples/from_tutorials/{name}.yaml", "data.max_length=500")
    tokenizer = run.tuned.tokenizer
    for example, (row,) in zip(*rows_of(run), strict=True):
        question, answer = (message.content for message in example.messages)
        bare = row.without_soft()
        text = tokenizer.decode(bare.ids, clean_up_tokenization_spaces=False)
        assert text.strip("\n") == f"{before}{question}{between}{answer}{tokenizer.eos_token}"
        learnt = [label for label in bare.labels if label != IGNORE]
        said = tokenizer.decode(learnt, clean_up_tokenization_spaces=False)
        assert said == f"{' ' * between.endswith(' ')}{answer}{tokenizer.eos_token}"


def test_the_tutorials_name_for_the_label_is_understood() -> None:
    template = configuration.load(ROOT / "examples/from_tutorials/cloze-review.yaml").task.template  # type: ignore[union-attr]
    assert template == "Review: {text} | Sentiment: {sentiment}"
    assert cloze.parse(template) == cloze.parse("Review: {text} | Sentiment: {label}")


def test_bert_stops_early_and_reports_weighted_scores(trained: Trained) -> None:
    name = "examples/from_tutorials/bert-sentiment.yaml"
    run = trained(name, "train.max_steps=12", "eval.every=1", "train.lr=1e-12")
    assert run.manifest["steps"] < 12
    assert {"accuracy", "precision_weighted", "recall_weighted", "f1_weighted"} <= set(run.metrics)


def test_adapters_stand_after_the_feed_forward_of_each_layer_only(trained: Trained) -> None:
    for name, heads in (("adapter-trainer", 2), ("adapter-wikitext", 0)):
        run = trained(f"examples/from_tutorials/{name}.yaml")
        width = tiny.HIDDEN // 16
        each = 2 * tiny.HIDDEN * width + width + tiny.HIDDEN
        head = heads * (tiny.HIDDEN + 1)
        assert run.manifest["parameters"]["trainable"] == tiny.LAYERS * each + head
