"""Task cloze: templates, the place of the label, scores against computations of their own, calibration, zero-shot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

import tiny
import tunery
from small import labelled, lively, log, one_thread, train, write  # noqa: F401
from tunery import config as configuration
from tunery.config import DataConfig, ModelConfig
from tunery.data import cloze, soft
from tunery.data.batch import collate
from tunery.data.ledger import Ledger
from tunery.errors import ConfigError, DataError, ModelError
from tunery.models.load import open_base
from tunery.protocols import SOFT, Encoded, Example, SoftPlacement
from tunery.run import build
from tunery.run.check import check
from tunery.run.encode import encode_split
from tunery.run.init import init
from tunery.run.show import show
from tunery.tasks.cloze import Cloze

TEMPLATE = "Review: {text} | Sentiment: {label}"
WORDS = {"good": ["great", "good"], "bad": ["awful", "very bad indeed"]}
TEXTS = ("The film is boring.", "Hello, my name is Anna and I live in London.", "很好")
ALL = ["tiny_mlm_bert", "tiny_roberta", "tiny_gpt2", "tiny_llama", "tiny_t5"]


@pytest.fixture(scope="session")
def tiny_mlm_bert(models_folder: Path) -> Path:
    return tiny.tiny_bert(models_folder / "bert-mlm", transformers.BertForMaskedLM)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    return request.getfixturevalue


def lively_masked(base: Path, folder: Path) -> Path:
    """As ``small.lively``, for masked models: LoRA cannot move embeddings, which are the output layer too."""
    model = AutoModelForMaskedLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def task_on(model: Path, **config: Any) -> tuple[Cloze, Any, Any]:
    """→ task fitted on two labels, model with its head, tokenizer."""
    task = Cloze(Cloze.Config(**{"template": TEMPLATE, "verbaliser": WORDS, **config}))
    task.fit([Example("f", 1, text="a", label="good"), Example("f", 2, text="b", label="bad")], ["good", "bad"])
    base = open_base(ModelConfig(name=str(model), dtype="float32"))
    net, head = task.head(base)
    assert head == ()
    return task, net, base.tokenizer


def rows_of(task: Cloze, tokenizer: Any, texts: tuple[str, ...] = TEXTS, length: int = 512) -> list[Encoded]:
    examples = [Example("f", i, text=text, text_pair=text, label="bad") for i, text in enumerate(texts)]
    return [row for example in examples for row in soft.encode(task, example, tokenizer, length)]


def scores_of(task: Cloze, net: Any, rows: list[Encoded], tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return task.scores(net, collate(rows, tokenizer.pad_token_id))


def mean_of(words: list[float]) -> float:
    return float(torch.tensor(words).logsumexp(0) - torch.tensor(float(len(words))).log())


# -------------------------------------------------------------------------------------------- templates


def test_a_template_is_its_parts() -> None:
    found = cloze.parse("Review: {text} {{x}} | {label}!")
    assert [(part.field, part.literal) for part in found.parts] == [
        ("", "Review: "), ("text", ""), ("", " {x} | "), ("label", ""), ("", "!"),
    ]  # fmt: skip
    assert found.fields == {"text"}
    assert found.goes_on
    assert not cloze.parse("{text} {label} ").goes_on


def test_fields_go_by_the_names_of_columns_too() -> None:
    assert cloze.parse("Review: {review} | Sentiment: {sentiment}") == cloze.parse(TEMPLATE)


def test_what_is_put_in_is_never_parsed() -> None:
    nasty = "{label} {0.__class__} {{ [soft:3] %s"
    filled = cloze.parse(TEMPLATE).fill({"text": nasty}, "great")
    assert filled.text == f"Review: {nasty} | Sentiment: great"
    assert filled.text[slice(*filled.fields["text"])] == nasty
    assert filled.text[slice(*filled.label)] == " great"


@pytest.mark.parametrize(
    ("template", "problem", "hint"),
    [
        ("{text} {lable}", "unknown field {lable}", "did you mean 'label'?"),
        ("{text.__class__} {label}", "unknown field {text.__class__}", ""),
        ("{text}", "no {label}", "name it once"),
        ("{text} {label} {label}", "2 times {label}", "name it once"),
        ("It is {label}", "no {text}", "the model must see"),
        ("{text} { {label}", "'{'", "twice"),
        ("{text} } {label}", "'}'", "twice"),
        ("{text}{label}", "directly beside", "space"),
        ("{label}{text}", "directly beside", "space"),
        ("[soft:x] {text} {label}", "[soft:n]", "[soft:3]"),
    ],
)
def test_wrong_templates(template: str, problem: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.load(values={"task": {"name": "cloze", "template": template}})
    assert problem in caught.value.problem
    assert hint in caught.value.hint
    assert caught.value.where == "task.template"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"good": [], "bad": ["awful"]}, "no word for label 'good'"),
        ({"good": ["fine"], "bad": ["fine"]}, "stands twice"),
        ({"good": [" "], "bad": ["awful"]}, "no word"),
        ({"good": {"a": 1}}, "a mapping {name: value}"),
        ("great", "a mapping {name: value}"),
    ],
)
def test_wrong_verbalisers(words: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.load(values={"task": {"name": "cloze", "verbaliser": words}})
    assert problem in caught.value.problem
    assert caught.value.where == "task.verbaliser"


def test_words_that_look_like_something_else() -> None:
    given = configuration.load(overrides=["task=cloze", "task.verbaliser={0: yes, true: [no, 1]}"])
    assert given.task.verbaliser == {"0": ["yes"], "true": ["no", "1"]}  # type: ignore[union-attr]
    override = "task.template={text} It was {label}"
    assert configuration.load(overrides=["task=cloze", override]).task.template == "{text} It was {label}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ({"good": ["a"], "baad": ["b"]}, "'baad'"),
        ({"good": ["a"]}, "add bad"),
        ({"good": ["a"], "bad": ["b"], "goood": ["c"]}, "'good'"),
    ],
)
def test_verbaliser_and_data_have_the_same_labels(words: Any, hint: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, tiny_gpt2, data, task={"name": "cloze", "verbaliser": words})
    assert caught.value.where == "task.verbaliser"
    assert hint in caught.value.hint
    assert not list(tmp_path.glob("*-cloze-*"))


def test_words_the_tokenizer_cannot_tell_apart(tiny_mlm_bert: Path, tiny_gpt2: Path) -> None:
    for words, problem in (
        ({"good": ["Great"], "bad": ["great"]}, "same tokens"),
        ({"good": ["𒀀"], "bad": ["bad"]}, "does not know"),
    ):
        with pytest.raises(ConfigError, match=problem):
            task_on(tiny_mlm_bert, verbaliser=words)
    with pytest.raises(ConfigError, match="shares a token") as caught:
        task_on(tiny_gpt2, template="{text} g{label}", verbaliser={"good": ["ood"], "bad": ["reat"]})
    assert caught.value.hint


def test_several_labels_a_row_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": str(i), "label": ["a", "b"]} for i in range(20)])
    with pytest.raises(DataError, match="several labels") as caught:
        train(tmp_path, tiny_gpt2, data, task="cloze")
    assert "classify" in caught.value.hint


# --------------------------------------------------------------------------------- the place of the label


@pytest.mark.parametrize("model", ALL)
def test_a_word_is_tokenised_where_it_stands(model: str, folder: Callable[[str], Path]) -> None:
    task, _, tokenizer = task_on(folder(model))
    for row, text in zip(rows_of(task, tokenizer), TEXTS, strict=True):
        assert row.span is not None
        assert row.ids == tokenizer(f"Review: {text} | Sentiment: awful")["input_ids"]
        word = row.ids[row.span[0] : row.span[1] + 1]
        assert tokenizer.decode(word) == ("awful" if model == "tiny_mlm_bert" else " awful"), "its space is its own"
        assert tokenizer.decode(row.ids[: row.span[0]]).lower().endswith("sentiment:") or model == "tiny_mlm_bert"
        assert row.target == 1
        assert not row.truncated


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("template", [TEMPLATE, "{label}: {text}", "{text_pair}? {label}, {text}"])
def test_only_texts_are_cut(model: str, template: str, folder: Callable[[str], Path]) -> None:
    task, _, tokenizer = task_on(folder(model), template=template)
    texts = ("parcel " * 40, "你好" * 30)
    for row, whole in zip(rows_of(task, tokenizer, texts, 40), rows_of(task, tokenizer, texts), strict=True):
        assert row.truncated and not whole.truncated
        assert row.span is not None and whole.span is not None
        longest = max(map(len, task._words))
        size = row.span[1] - row.span[0] + 1
        assert len(row.ids) + longest - size == 40, "room for every word"
        assert row.ids[row.span[0] : row.span[1] + 1] == whole.ids[whole.span[0] : whole.span[1] + 1]
        for ids in (row.ids, whole.ids):
            ids[:] = [i for i in ids if i not in tokenizer("parcel parcel 你好", add_special_tokens=False)["input_ids"]]
        assert row.ids == whole.ids, "all but the text is left"


def test_a_template_too_long_for_the_rows(tiny_gpt2: Path) -> None:
    task, _, tokenizer = task_on(tiny_gpt2)
    least = len(tokenizer("Review: a | Sentiment: very bad indeed")["input_ids"])
    rows_of(task, tokenizer, ("a " * 50,), least)
    with pytest.raises(ConfigError, match=f"takes {least} tokens") as caught:
        rows_of(task, tokenizer, ("a " * 50,), least - 1)
    assert caught.value.where == "task.template"


def test_rows_that_cannot_be_used(tiny_gpt2: Path) -> None:
    task, _, tokenizer = task_on(tiny_gpt2, template="{text} {text_pair} {label}")
    examples = [
        Example("f", 1, text="a", label="good"), Example("f", 2, text="b", text_pair="c", label="strange"),
        Example("f", 3, text="b", text_pair="c", label=("good", "bad")),
        Example("f", 4, text="b", text_pair="c", label="good"),
    ]  # fmt: skip
    ledger = Ledger()
    for example in examples:
        ledger.add(example.where, "used:train")
    split = encode_split("train", examples, task, tokenizer, DataConfig(on_bad_row="drop"), 64, ledger)
    assert list(split.examples) == examples[3:]
    for example, problem in zip(examples, ("{text_pair}", "'strange' is not in data.labels", "several"), strict=False):
        with pytest.raises(DataError) as caught:
            encode_split("train", [example], task, tokenizer, DataConfig(), 64, ledger)
        assert problem in caught.value.problem
        assert caught.value.where == example.where


# ------------------------------------------------------------------- scores against a computation of their own


def _causal(net: Any, tokenizer: Any, before: str, word: str, after: str = "") -> float:
    """Sum of log p over every token from the word on, one token at a time."""
    ids = tokenizer(before + word + after)["input_ids"]
    known = len(tokenizer(before.rstrip(" "))["input_ids"])
    total = 0.0
    for n in range(max(known, 1), len(ids)):
        shares = net(input_ids=torch.tensor([ids[:n]])).logits[0, -1].log_softmax(-1)
        total += float(shares[ids[n]])
    return total


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [(TEMPLATE, "Review: {} | Sentiment: ", ""), ("A {label} one: {text}", "A ", " one: {}"),
     ("{label}: {text}", "", ": {}")],
)  # fmt: skip
@torch.no_grad()
def test_causal_scores(
    model: str, template: str, before: str, after: str, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    task, net, tokenizer = task_on(lively(folder(model), tmp_path / "m"), template=template)
    found = scores_of(task, net, rows_of(task, tokenizer), tokenizer)
    for row, text in zip(found, TEXTS, strict=True):
        for score, words in zip(row, WORDS.values(), strict=True):
            each = [_causal(net, tokenizer, before.format(text), word, after.format(text)) for word in words]
            assert float(score) == pytest.approx(mean_of(each), abs=1e-3)
    assert float((found[:, 0] - found[:, 1]).std()) > 1e-2, "the text matters"


@pytest.mark.parametrize("model", ["tiny_mlm_bert", "tiny_roberta"])
@torch.no_grad()
def test_masked_scores(model: str, folder: Callable[[str], Path]) -> None:
    task, net, tokenizer = task_on(folder(model))
    net = AutoModelForMaskedLM.from_pretrained(folder(model)).eval()
    found = scores_of(task, net, rows_of(task, tokenizer), tokenizer)
    for row, text in zip(found, TEXTS, strict=True):
        for score, words in zip(row, WORDS.values(), strict=True):
            each = []
            for word in words:
                whole = tokenizer(f"Review: {text} | Sentiment: {word}")["input_ids"]
                start = len(tokenizer(f"Review: {text} | Sentiment:")["input_ids"]) - 1  # less [SEP]
                size = len(whole) - 1 - start
                masked = [*whole[:start], *[tokenizer.mask_token_id] * size, whole[-1]]
                shares = net(input_ids=torch.tensor([masked])).logits[0, start : start + size].log_softmax(-1)
                each.append(sum(float(shares[n, token]) for n, token in enumerate(whole[start:-1])))
            assert float(score) == pytest.approx(mean_of(each), abs=1e-4)
    sizes = {len(word) for word in task._words}
    assert len(sizes) > 1, "words of different length"


@torch.no_grad()
def test_encoder_decoder_scores(tiny_t5: Path) -> None:
    task, net, tokenizer = task_on(tiny_t5, template="{text} It is {label}!")
    net = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    found = scores_of(task, net, rows_of(task, tokenizer), tokenizer)
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(f"{text} It is<extra_id_0>!")["input_ids"]
        for score, words in zip(row, WORDS.values(), strict=True):
            each = []
            for word in words:
                wanted = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                written = torch.tensor([[0, sentinel, *wanted]])
                shares = net(input_ids=torch.tensor([ids]), decoder_input_ids=written).logits[0].log_softmax(-1)
                each.append(sum(float(shares[1 + n, token]) for n, token in enumerate(wanted)))
            assert float(score) == pytest.approx(mean_of(each), abs=1e-4)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("template", [TEMPLATE, "It is {label}, this: {text}"])
def test_a_batch_equals_its_rows(model: str, template: str, folder: Callable[[str], Path]) -> None:
    task, net, tokenizer = task_on(folder(model), template=template, calibrate=True)
    rows = rows_of(task, tokenizer, (*TEXTS, "parcel " * 30))
    whole = task.loss(net, collate(rows, tokenizer.pad_token_id))
    each = [task.loss(net, collate([row], tokenizer.pad_token_id)) for row in rows]
    assert whole[2] is not None
    torch.testing.assert_close(whole[2], torch.cat([out for _, _, out in each if out is not None]), rtol=0, atol=1e-4)
    assert float(whole[0].detach()) == pytest.approx(sum(float(loss.detach()) for loss, _, _ in each), abs=1e-4)
    assert int(whole[1]) == 4


def test_the_word_in_the_row_makes_no_difference(tiny_gpt2: Path, tiny_roberta: Path) -> None:
    """Rows carry a word of their label; the score must not see it."""
    for folder, template in ((tiny_gpt2, TEMPLATE), (tiny_gpt2, "{label}: {text}"), (tiny_roberta, TEMPLATE)):
        words = {"good": ["very bad indeed"], "bad": ["a"]}
        task, net, tokenizer = task_on(folder, template=template, verbaliser=words)
        rows = [
            task.encode(Example("f", 1, text=TEXTS[0], label=label), tokenizer, 512)[0] for label in ("good", "bad")
        ]
        assert len(rows[0].ids) != len(rows[1].ids)
        one, other = (scores_of(task, net, [row], tokenizer) for row in rows)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("model", ALL)
def test_calibration_takes_away_what_is_said_of_nothing(model: str, folder: Callable[[str], Path]) -> None:
    task, net, tokenizer = task_on(folder(model), calibrate=True)
    blanks = ["N/A", "", tokenizer.mask_token or "[MASK]"]
    with torch.no_grad():
        alone = [scores_of(task, net, rows_of(task, tokenizer, (text,)), tokenizer).softmax(-1) for text in blanks]
        prior = torch.cat(alone).mean(0)
        batch = collate(rows_of(task, tokenizer), tokenizer.pad_token_id)
        plain, found = task.scores(net, batch), task.loss(net, batch)[2]
        assert found is not None
        torch.testing.assert_close(found, plain - prior.log(), rtol=0, atol=1e-5)
        wanted = plain.softmax(-1) / prior
        got = torch.tensor([list(p.probabilities.values()) for p in task.decode(found) if p.probabilities])
        torch.testing.assert_close(got, wanted / wanted.sum(1, keepdim=True), rtol=0, atol=1e-5)
        assert float((found - plain).abs().max()) > 1e-3
        net.training = True  # its layers keep out of it: no dropout
        trained = task.loss(net, batch)[2]
        assert trained is not None
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-5)
    assert not torch.allclose(trained, found, atol=1e-3), "the training loss is left alone"


def test_a_blank_text_with_nothing_before_the_label(tiny_gpt2: Path) -> None:
    task, net, _ = task_on(tiny_gpt2, template="{text} {label}", calibrate=True)
    with torch.no_grad():
        assert task.priors(net, False).exp().sum() == pytest.approx(1.0)


# -------------------------------------------------------------------------------------------- whole runs


def run_of(folder: Path, model: Path, method: str = "lora", **settings: Any) -> Any:
    data = write(folder / "train.jsonl", labelled(8))
    values: dict[str, Any] = {
        "task": {"name": "cloze", "template": TEMPLATE, "verbaliser": WORDS}, "method": method,
        "data__validation": str(data), "train__lr": 1e-2 if method == "lora" else 5e-3, "train__max_steps": 40,
        "train__patience": None, "eval__every": 40, "train__weight_decay": 0.0,
    }  # fmt: skip
    return train(folder, model, data, **(values | settings))


@pytest.mark.parametrize(
    ("method", "model"), [*(("full", model) for model in ALL), ("lora", "tiny_mlm_bert"), ("lora", "tiny_gpt2")]
)
def test_learns_eight_rows(method: str, model: str, tmp_path: Path, folder: Callable[[str], Path]) -> None:
    base = folder(model)
    if model != "tiny_t5":
        base = (lively if model in ("tiny_gpt2", "tiny_llama") else lively_masked)(base, tmp_path / "m")
    run = run_of(tmp_path, base, method, task={"name": "cloze", "template": "{text}: {label}"})
    assert run.metrics["accuracy"] == 1.0
    assert run.metrics["loss"] < 0.5 * run.manifest["base_metrics"]["loss"]
    again = tunery.load(run.path)
    texts = [row["text"] for row in labelled(8)]
    found = again.predict(texts)
    assert [p.value for p in found] == [row["label"] for row in labelled(8)]
    assert found == [again.predict(text)[0] for text in texts] or all(
        p.probabilities["good"] == pytest.approx(again.predict(text)[0].probabilities["good"], abs=1e-4)
        for p, text in zip(found, texts, strict=True)
    )
    assert again.evaluate(tmp_path / "train.jsonl")["metrics"] == pytest.approx(run.metrics, abs=1e-4)


def test_accumulation_and_gradient_checkpointing_change_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train__max_steps": 4, "train__lr": 1e-3}
    runs = [
        run_of(tmp_path, tiny_llama, "full", **settings, **more)
        for more in ({}, {"train__batch_size": 2, "train__accumulate": 4}, {"train__gradient_checkpointing": True})
    ]
    first, *others = [[record["loss"] for record in log(run) if "loss" in record] for run in runs]
    for other in others:
        assert other == pytest.approx(first, rel=1e-4)


def test_zero_shot(tiny_gpt2: Path, tmp_path: Path) -> None:
    for more in ({}, {"task": "cloze"}, {"task": {"name": "cloze", "calibrate": True}}):
        run = run_of(tmp_path, lively(tiny_gpt2, tmp_path / "m"), train__max_steps=0, **more)
        assert run.manifest["steps"] == 0
        assert run.metrics == run.manifest["base_metrics"]
        assert run.evaluate(tmp_path / "train.jsonl")["metrics"] == pytest.approx(run.metrics)
        assert run.predict("great film")[0].value in ("good", "bad")


def test_a_base_without_masked_language_head_is_refused(tiny_bert: Path, tiny_bart: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    for model, reason in ((tiny_bert, "no masked-language head in its files"), (tiny_bart, "<extra_id_0>")):
        with pytest.raises(ModelError, match=reason) as caught:
            train(tmp_path, model, data, task="cloze")
        assert caught.value.hint
        assert caught.value.where == "model.name"
        with pytest.raises(ModelError, match=reason):
            check(configuration.load(values={"data.train": str(data), "model": str(model), "task": "cloze"}))
    assert not list(tmp_path.glob("*-cloze-*")), "no run is begun"


def test_a_decoder_without_its_output_layer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny_llama)
    whole.config.tie_word_embeddings = False
    whole.model.save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="no language head"):
        task_on(tmp_path / "m")


@pytest.mark.parametrize("name", ["distilbert", "deberta", "modernbert", "qwen", "gemma"])
def test_every_architecture(name: str, models_folder: Path) -> None:
    task, net, tokenizer = task_on(tiny.BUILDERS[name](models_folder / f"cloze-{name}"))
    rows = rows_of(task, tokenizer)
    found = scores_of(task, net, rows, tokenizer)
    alone = torch.cat([scores_of(task, net, [row], tokenizer) for row in rows])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------ around a run


def test_check_and_show(tiny_gpt2: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    values = {"data.train": str(data), "model": str(tiny_gpt2), "task.name": "cloze", "task.template": TEMPLATE}
    found = check(configuration.load(values=values))
    assert found["labels"]["train"] == {"bad": 9, "good": 9}
    assert found["supervised_tokens"] == 20
    assert found["exit_code"] == 0
    (row,) = show(configuration.load(values=values), 1)["rows"]
    assert "".join(token["text"] for token in row["tokens"]) == f"Review: {_first(data)} | Sentiment: {row['target']}"
    supervised = "".join(token["text"] for token in row["tokens"] if token["supervised"])
    assert supervised == f" {row['target']}", "the place of the label is shown"
    assert row["target"] in ("good", "bad")


def _first(data: Path) -> str:
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    found = show_order(rows)
    return str(found["text"])


def show_order(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first row that is not held out for validation."""
    from tunery.data.split import holdout

    examples = [Example("f", i + 1, text=row["text"], label=row["label"]) for i, row in enumerate(rows)]
    return rows[holdout(examples, 0.1, 42, True)[0][0]]


def test_init_proposes_a_model_with_a_language_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(write(tmp_path / "a.jsonl", labelled(20)))
    found = init([data], overrides=["task=cloze", f"task.template={TEMPLATE}"])
    assert found["values"]["model"]["name"] == "smollm2"
    assert configuration.load(tmp_path / "tunery.yaml").task.template == TEMPLATE  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no masked-language head"):
        init([data], model="minilm", overrides=["task=cloze"], force=True)


def test_soft_tokens_of_a_template(tiny_gpt2: Path) -> None:
    task, net, tokenizer = task_on(tiny_gpt2, template="[soft:2]{text} [soft:3]{label}")
    assert task.soft_tokens(tokenizer) == 5
    (row,) = rows_of(task, tokenizer, ("Hello [soft:4]",))
    assert [i - SOFT for i in row.ids if i >= SOFT] == [0, 1, 2, 3, 4]
    assert row.span is not None
    assert row.ids[:2] == [SOFT, SOFT + 1]
    assert row.ids[row.span[0] - 1] == SOFT + 4
    assert tokenizer.decode(row.ids[row.span[0] : row.span[1] + 1]) == "awful"
    bare = row.without_soft()
    assert tokenizer.decode(bare.ids) == "Hello [soft:4] awful"
    assert torch.isfinite(scores_of(task, net, [bare], tokenizer)).all()


@pytest.mark.parametrize("length", [512, 40])
def test_soft_tokens_that_a_method_places(length: int, tiny_roberta: Path) -> None:
    task, _, tokenizer = task_on(tiny_roberta)
    for position in ("before", "after", "between"):
        task.soft = SoftPlacement(2, position)  # type: ignore[arg-type]
        (row,) = rows_of(task, tokenizer, ("parcel " * 30 + "parcel",), length)
        assert row.span is not None
        assert row.truncated == (length == 40)
        at = row.ids.index(SOFT)
        before, behind = tokenizer.decode(row.ids[:at]), tokenizer.decode(row.ids[at + 2 :])
        assert before.endswith({"before": "<s>", "after": "parcel", "between": "Sentiment:"}[position]) or (
            length == 40 and position == "after"
        )
        assert behind.startswith({"before": "Review", "after": " | Sent", "between": " awful"}[position])
        assert tokenizer.decode(row.ids[row.span[0] : row.span[1] + 1]) == " awful"


def test_state_goes_through_a_run(tiny_gpt2: Path, tmp_path: Path) -> None:
    rows = [{"text": "a film", "text_pair": str(i), "label": "xy"[i % 2]} for i in range(20)]
    run = train(tmp_path, tiny_gpt2, write(tmp_path / "a.jsonl", rows), task="cloze", train__max_steps=1)
    task, _ = build.parts(run.config)
    task.restore(run.tuned.task.state())
    assert task.template == run.tuned.task.template == cloze.parse("Text: {text}\nText 2: {text_pair}\nLabel: {label}")
    assert run.predict([{"text": "a", "text_pair": "b"}])[0].value in ("x", "y")
    with pytest.raises(DataError, match="text_pair"):
        run.predict("a")
