"""Soft tokens: markers in templates, where they are put, the vectors in the place of embeddings, the two methods."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import tiny
from small import documents, labelled, lively, losses, one_thread, questions, train, weights_of, write  # noqa: F401
from tunery import config as configuration
from tunery import registry
from tunery.data import render, soft
from tunery.errors import ConfigError, DataError, ModelError
from tunery.evaluate import Settings, answer, prompt_of, readable
from tunery.generate.engine import Sampling
from tunery.models import soft as models_soft
from tunery.models import weights
from tunery.models.heads import PooledClassifier
from tunery.protocols import IGNORE, SOFT, Encoded, Example, Message, SoftPlacement
from tunery.run import build
from tunery.run import train as training
from tunery.run.check import check
from tunery.run.show import show

HERE = chr(soft.FIRST)
MARKED = "[soft:1]{% set s = '[soft:2]' %}" + tiny.CHATML.replace("<|im_start|>", "<|im_start|>{{ s }}")
"""ChatML with a soft token in front and the same two in every turn and in the generation prompt."""
QUICK: dict[str, Any] = {"train__max_steps": 2, "train__lr": 1e-2, "eval__generate_rows": 2}
KINDS = {
    **dict.fromkeys(("llama", "gpt2", "qwen", "gemma"), "causal_lm"),
    **dict.fromkeys(("bert", "roberta", "distilbert", "deberta", "modernbert"), "sequence_classification"),
    "bart": "seq2seq_lm",
    "t5": "seq2seq_lm",
}


def method_of(name: str, task: Any, tokenizer: Any, **settings: Any) -> Any:
    """A method, prepared."""
    found = registry.get("method", name)(registry.config_class("method", name)(**settings))
    found.prepare(task, tokenizer)
    return found


def task_of(name: str, **settings: Any) -> Any:
    return registry.get("task", name)(registry.config_class("task", name)(**settings))


def chat(*contents: str) -> Example:
    roles = ("user", "assistant")
    return Example("f", 7, messages=tuple(Message(roles[i % 2], text) for i, text in enumerate(contents)))


def soft_of(ids: list[int]) -> list[int]:
    return [i - SOFT for i in ids if i >= SOFT]


def bare(ids: list[int]) -> list[int]:
    return [i for i in ids if i < SOFT]


def logits_of(model: Any, rows: list[list[int]], pad: int = 0) -> torch.Tensor:
    """Of every position, or of every row, one row at a time and without gradients."""
    inputs = [torch.tensor([ids]) for ids in rows]
    decoder = {"decoder_input_ids": torch.tensor([[pad, 5, 6]])} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        outs = [model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder) for ids in inputs]
    return torch.cat([getattr(out, "logits", out).flatten() for out in outs])


# ----------------------------------------------------------------------------------------------- markers


def test_markers_become_characters_that_are_counted_on() -> None:
    compiled = soft.compiled("[soft:2] {text} [soft:1]{label}")
    assert [ord(c) - soft.FIRST for c in compiled if c >= HERE] == [0, 1, 2]
    assert soft.count("[soft:2] {text} [soft:1]{label}") == 3
    assert soft.without("a[soft:2]b") == "ab" == soft.compiled("ab")


@pytest.mark.parametrize("marker", ["[soft:]", "[soft:0]", "[soft:x]", "[soft:-1]", "[soft: 3]", "[soft:99999]"])
def test_a_marker_that_cannot_be_read(marker: str) -> None:
    with pytest.raises(ConfigError, match="soft:n") as caught:
        soft.compiled(f"{marker} text")
    assert caught.value.where == "task.template"


def test_a_template_with_soft_tokens_is_its_pieces(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    messages = chat("Where is my parcel?", "On Monday.").messages
    ids, labels = render.render(messages, tokenizer, MARKED)
    assert soft_of(ids) == [0, 1, 2, 1, 2]
    plain, plain_labels = render.render(messages, tokenizer, tiny.CHATML)
    assert bare(ids) == plain
    assert [label for i, label in zip(ids, labels, strict=True) if i < SOFT] == plain_labels
    assert all(label < SOFT for label in labels)
    asked = render.prompt_ids(messages, tokenizer, MARKED)
    assert ids[: len(asked)] == asked
    assert soft_of(asked) == soft_of(ids)
    with pytest.raises(DataError, match="earlier turns") as caught:
        render.render(messages, tokenizer, tiny.CHATML.replace("<|im_start|>", "<|im_start|>[soft:2]"))
    assert "{% set soft" in caught.value.hint


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma"])
def test_every_piece_is_tokenised_alone(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(f"tiny_{model}"))
    template = "[soft:2]Q: {{ messages[0].content }}[soft:1] A: "
    template += "{% if messages|length > 1 %}{{ messages[1].content }}{{ eos_token }}{% endif %}"
    ids = render.prompt_ids(chat("Where [soft:4]?").messages, tokenizer, template)
    start = render.added_bos(tokenizer)

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    asked = [SOFT, SOFT + 1, *plain("Q: Where [soft:4]?"), SOFT + 2, *plain(" A: ")]
    assert ids == ([start] if start is not None else []) + asked
    whole, labels = render.render(chat("Where [soft:4]?", "Here.").messages, tokenizer, template)
    assert whole[: len(ids)] == ids
    assert labels[len(ids) :] == [*plain("Here."), tokenizer.eos_token_id]
    _, every = render.render(chat("Where?", "Here.").messages, tokenizer, template, "all")
    assert every.count(IGNORE) == 3


def test_exactly_one_bos_with_soft_tokens_in_front(tiny_gemma: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gemma)
    template = "[soft:1]{{ bos_token }}{{ messages[0].content }}"
    ids = render.prompt_ids(chat("Hello").messages, tokenizer, template)
    assert ids[:2] == [SOFT, tokenizer.bos_token_id]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_soft_tokens_inside_an_answer_are_refused(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    with pytest.raises(ConfigError, match="inside an answer"):
        render.render(chat("Q", "A").messages, tokenizer, tiny.CHATML.replace("<|im_end|>", "[soft:1]<|im_end|>"))


def test_data_is_never_a_marker(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    with_soft, plain = (
        task_of("instruct", template=tiny.CHATML.replace("{% for", "[soft:2]{% for")),
        task_of("instruct"),
    )
    example = chat("What is [soft:3]?", "[soft:1]")
    (row,) = soft.encode(with_soft, example, tokenizer, 500)
    assert soft_of(row.ids) == [0, 1]
    assert "What is [soft:3]?" in tokenizer.decode(bare(row.ids))
    assert not soft_of(soft.encode(plain, example, tokenizer, 500)[0].ids)
    for contents in ((f"a{HERE}b", "c"), ("a", f"b{chr(soft.FIRST + 1)}")):
        for use in (soft.encode, soft.prompt):
            with pytest.raises(DataError, match="private character") as caught:
                use(with_soft, chat(*contents), tokenizer, 500)
            assert caught.value.where == "f:7"
        row = soft.encode(plain, chat(*contents), tokenizer, 500)[0]
        assert not soft_of(row.ids)
        assert HERE in tokenizer.decode(row.ids) or chr(soft.FIRST + 1) in tokenizer.decode(row.ids)
    outside = chr(soft.FIRST + 2)
    assert outside in tokenizer.decode(bare(soft.encode(with_soft, chat(outside, "a"), tokenizer, 500)[0].ids))


# --------------------------------------------------------------------------------------------- placement


@pytest.mark.parametrize("model", ["bert", "roberta", "gpt2", "t5", "modernbert", "bart"])
def test_places_in_a_row(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(f"tiny_{model}"))
    example = Example("f", 1, text="The film is good", text_pair=None)
    plain = task_of("regress").encode(example, tokenizer, 500)[0].ids
    first, last = {"gpt2": (0, 0), "t5": (0, 1)}.get(model, (1, 1))
    where = {"before": first, "after": len(plain) - last, "between": len(plain) - last}
    for position, at in where.items():
        task = task_of("regress")
        task.soft = SoftPlacement(3, position)  # type: ignore[arg-type]
        row = soft.encode(task, example, tokenizer, 500)[0]
        assert row.ids == [*plain[:at], SOFT, SOFT + 1, SOFT + 2, *plain[at:]]
        assert row.without_soft().ids == plain


def test_places_in_a_conversation(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    example = chat("Where is it?", "Here.", "And the other?", "There, or not.")
    plain, labels = render.render(example.messages, tokenizer, tiny.CHATML)
    text = tokenizer.decode(plain)
    asking, answered = text.rindex("<|im_start|>assistant"), text.rindex("There,")
    for position, before in (("before", ""), ("after", text[:asking]), ("between", text[:answered])):
        task = task_of("instruct")
        task.soft = SoftPlacement(2, position)  # type: ignore[arg-type]
        (row,) = soft.encode(task, example, tokenizer, 500)
        at = row.ids.index(SOFT)
        assert tokenizer.decode(row.ids[:at]) == before
        assert row.ids[:at] + row.ids[at + 2 :] == plain
        assert row.labels is not None
        assert row.labels[at : at + 2] == [IGNORE, IGNORE]
        assert row.labels[:at] + row.labels[at + 2 :] == labels
        for asked in (example, Example("f", 1, messages=example.messages[:-1])):
            prompt = soft.prompt(task, asked, tokenizer, 500)
            assert row.ids[: len(prompt)] == prompt
            assert soft_of(prompt) == [0, 1]
            assert prompt[-1] == SOFT + 1 or position != "between"


def test_rows_keep_to_max_length(tiny_bert: Path, tiny_gpt2: Path) -> None:
    bert, gpt2 = (AutoTokenizer.from_pretrained(folder) for folder in (tiny_bert, tiny_gpt2))
    pair = Example("f", 1, text="The film is good", text_pair="great wonderful good " * 20, label="1")
    task = task_of("regress")
    task.soft = SoftPlacement(5, "after")
    row = soft.encode(task, pair, bert, 24)[0]
    assert len(row.ids) == 24
    assert row.truncated
    assert row.ids[-6:-1] == list(range(SOFT, SOFT + 5))
    assert row.type_ids is not None
    assert len(row.type_ids) == 24
    assert set(row.type_ids[-6:]) == {1}, "segment of the second text"
    with pytest.raises(ConfigError, match="no room") as caught:
        soft.encode(task, pair, bert, 12)
    assert caught.value.where == "method.tokens"
    text = task_of("lm")
    text.soft = SoftPlacement(4, "before")
    windows = soft.encode(text, Example("f", 1, text=TEXT), gpt2, 20)
    plain = task_of("lm").encode(Example("f", 1, text=TEXT), gpt2, 16)
    assert len(windows) == len(plain) > 2
    assert all(soft_of(window.ids) == [0, 1, 2, 3] and len(window.ids) <= 20 for window in windows)
    assert sum(w.supervised for w in windows) == sum(w.supervised for w in plain)
    assert [w.without_soft().labels for w in windows] == [w.labels for w in plain]


TEXT = " ".join(tiny.TEXTS[:3])


def test_who_says_how_many(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    text = "Classify if the tweet is positive or negative:"
    count = len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(name: str, task: Any = None, **settings: Any) -> int:
        return int(method_of(name, task or task_of("instruct"), tokenizer, **settings).tokens)

    assert tokens("prompt") == 20
    assert tokens("prompt", text=text) == count
    assert tokens("prompt", text=text, tokens=5) == 5
    assert tokens("p_tuning") == 10
    marked = "[soft:3]" + tiny.CHATML + "[soft:3]"
    assert tokens("p_tuning", task_of("instruct", template=marked)) == 6
    task = task_of("instruct", template=marked)
    assert tokens("prompt", task, text=text, tokens=6) == 6
    assert task.soft is None, "the template says where"
    for bad in ({"tokens": 5}, {"position": "before"}):
        with pytest.raises(ConfigError, match="template") as caught:
            tokens("prompt", task_of("instruct", template=marked), **bad)
        assert caught.value.where == f"method.{next(iter(bad))}"
    with pytest.raises(ConfigError, match="no place") as caught:
        tokens("prompt", task_of("lm"), position="between")
    assert "before" in caught.value.hint
    for bad in ({"init": "text"}, {"init": "random", "text": "x"}, {"text": ""}):
        with pytest.raises(ConfigError):
            tokens("prompt", **bad)
    with pytest.raises(ConfigError, match="learns none"):
        method_of("full", task_of("instruct", template=marked), tokenizer)


# ----------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("model", KINDS)
def test_vectors_of_words_are_the_words(model: str, request: pytest.FixtureRequest) -> None:
    """On every architecture: nothing in the model looks at ids but the embeddings."""
    base = tiny.base_of(request.getfixturevalue(f"tiny_{model}"))
    net, head = base.load(KINDS[model])
    words = base.tokenizer("The film is good", add_special_tokens=False)["input_ids"]
    before, behind = (list(part) for part in soft.added(base.tokenizer))
    text = base.tokenizer("What is the capital of France?", add_special_tokens=False)["input_ids"]
    rows = [[*before, *words, *text, *behind], [*before, *text, *words, *behind]]
    pad = base.tokenizer.pad_token_id
    plain = logits_of(net, rows, pad)
    method = method_of("prompt", task_of("regress"), base.tokenizer, text="The film is good")
    method.attach(net, head)
    ids = list(range(SOFT, SOFT + len(words)))
    placed = [[*before, *ids, *text, *behind], [*before, *text, *ids, *behind]]
    net.eval()
    assert torch.equal(logits_of(net, placed, pad), plain)
    assert torch.equal(logits_of(net, rows, pad), plain), "rows without soft tokens"
    with torch.no_grad():
        net.soft_prompt.vectors().neg_()
    assert not torch.equal(logits_of(net, placed, pad), plain)
    net.train()
    mask = torch.ones(1, len(placed[0]), dtype=torch.long)
    extra = {"decoder_input_ids": torch.tensor([[pad, 5, 6]])} if net.config.is_encoder_decoder else {}
    net(input_ids=torch.tensor(placed[:1]), attention_mask=mask, **extra).logits.square().sum().backward()
    trained = weights.trainable(net)
    assert set(trained) == {"soft_prompt.sets.0.weight", *(n for n in trained if n.startswith(head))}
    assert trained["soft_prompt.sets.0.weight"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("model", "kind"), [*((m, "sequence_classification") for m in ("t5", "bart")), ("t5", "token_classification")]
)
def test_every_embedding_of_an_encoder_decoder(model: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Stock classifiers give their input to the decoder as well; T5's tagger has an encoder only, which embeds with
    another module than the model names.
    """
    base = tiny.base_of(request.getfixturevalue(f"tiny_{model}"))
    net, head = base.load(kind)
    words = base.tokenizer("good", add_special_tokens=False)["input_ids"]
    rest = base.tokenizer("The film")["input_ids"]
    with torch.no_grad():
        plain = net(input_ids=torch.tensor([[*words, *rest]])).logits
        method_of("prompt", task_of("regress"), base.tokenizer, text="good").attach(net, head)
        found = net.eval()(input_ids=torch.tensor([[*range(SOFT, SOFT + len(words)), *rest]])).logits
    assert torch.equal(found, plain)


def test_a_pooled_head(tiny_bert: Path) -> None:
    base = tiny.base_of(tiny_bert)
    net = PooledClassifier(base.load("backbone")[0], 2, "mean", 0.0).eval()
    words = base.tokenizer("good film", add_special_tokens=False)["input_ids"]
    plain = logits_of(net, [[2, *words, 9, 10, 3]])
    method_of("prompt", task_of("regress"), base.tokenizer, text="good film").attach(net, ("classifier",))
    assert torch.equal(logits_of(net.eval(), [[2, *range(SOFT, SOFT + len(words)), 9, 10, 3]]), plain)
    names = {"soft_prompt.sets.0.weight", "classifier.weight", "classifier.bias"}
    assert set(weights.trainable(net)) == names


def test_how_vectors_begin(tiny_gemma: Path) -> None:
    """Gemma scales its embeddings: vectors begin as large as what the embedding gives, not as its matrix."""
    base = tiny.base_of(tiny_gemma)
    tokenizer = base.tokenizer

    def start(name: str = "prompt", **settings: Any) -> torch.Tensor:
        net, head = base.load("causal_lm")
        torch.manual_seed(3)
        method_of(name, task_of("instruct"), tokenizer, **settings).attach(net, head)
        return net.soft_prompt.vectors().detach()

    net = base.load("causal_lm")[0]
    with torch.no_grad():
        every = net.get_input_embeddings()(torch.arange(net.config.vocab_size))
    drawn = start(tokens=400)
    places = [(every == vector).all(1).nonzero()[0, 0].item() for vector in drawn]
    assert not {0, 1, 2} & set(places), "special tokens are no words"
    assert len(set(places)) > 300
    assert torch.equal(drawn, start(tokens=400))
    assert abs(float(start(tokens=400, init="random").std() / every.std()) - 1) < 0.1
    ids = tokenizer("good film", add_special_tokens=False)["input_ids"]
    repeated = start(text="good film", tokens=2 * len(ids) + 1)
    assert torch.equal(repeated, every[[*ids, *ids, ids[0]]])
    assert torch.equal(start(text="good film", tokens=1), every[ids[:1]])
    for encoder in ("identity", "mlp", "lstm"):
        made = start("p_tuning", encoder=encoder, tokens=40)
        assert made.shape == (40, tiny.HIDDEN)
        assert abs(float(made.std() / every.std()) - 1) < 0.1, encoder


def test_neighbours_depend_on_each_other_in_the_lstm_only() -> None:
    torch.manual_seed(0)
    for kind, same in (("mlp", True), ("lstm", False)):
        encoder = models_soft.PromptEncoder(5, 8, kind, 6, 0.0, 1.0)  # type: ignore[arg-type]
        before = encoder()
        with torch.no_grad():
            encoder.inputs[4] += 1
        after = encoder()
        assert torch.equal(before[0], after[0]) == same, kind
        assert not torch.equal(before[4], after[4])


def test_gradients_of_many_rows_are_added_up_in_fp32(tiny_llama: Path) -> None:
    """A bf16 sum of 512 equal numbers stops growing long before its end."""
    base = tiny.base_of(tiny_llama, dtype="bfloat16")
    net, head = base.load("causal_lm")
    method_of("prompt", task_of("instruct"), base.tokenizer, tokens=1).attach(net, head)
    vector = net.soft_prompt.sets[0].weight
    assert vector.dtype == torch.bfloat16
    embed = net.get_input_embeddings()
    embed(torch.full((1024, 2), SOFT)).sum().backward()
    assert torch.equal(vector.grad.float(), torch.full_like(vector, 2048).float())


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_an_encoder_in_bf16(encoder: str, tiny_llama: Path) -> None:
    base = tiny.base_of(tiny_llama, dtype="bfloat16")
    net, head = base.load("causal_lm")
    method_of("p_tuning", task_of("instruct"), base.tokenizer, encoder=encoder).attach(net, head)
    net(input_ids=torch.tensor([[SOFT, SOFT + 9, 7]])).logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights.trainable(net).values())


# ------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "prompt", "position": "after"},
        {"name": "prompt"},
        {"name": "p_tuning", "encoder": "lstm"},
        {"name": "p_tuning", "encoder": "mlp", "hidden": 7},
        {"name": "p_tuning", "encoder": "identity"},
    ],
    ids=lambda s: "-".join(str(v) for v in s.values()),
)
@pytest.mark.parametrize(("model", "kind"), [("llama", "causal_lm"), ("bert", "sequence_classification")])
def test_two_sets_over_one_base(
    settings: dict[str, Any], model: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Save and load; switch; the bare base comes back, head and all, and reads no soft tokens.

    Copies of a model lie elsewhere in memory, and on some processors products then differ in the last bit.
    """
    base = tiny.base_of(request.getfixturevalue(f"tiny_{model}"))
    net, head = base.load(kind)
    untouched = copy.deepcopy(net)
    options = {key: value for key, value in settings.items() if key != "name"}
    method = method_of(settings["name"], task_of("regress"), base.tokenizer, **options)
    row = [[3, SOFT, SOFT + 9, 7, 8]]
    expected = {}
    for name in ("one", "two.2"):
        made = copy.deepcopy(untouched)
        torch.manual_seed(len(expected))
        method.attach(made, head)
        with torch.no_grad():
            for parameter in weights.trainable(made).values():
                parameter += 0.3 * torch.randn_like(parameter)
        (tmp_path / name).mkdir()
        method.save(made, tmp_path / name)
        expected[name] = logits_of(made.eval(), row)
    for name in expected:
        method.load(net, tmp_path / name, head, name)
    net.eval()
    for name in ("two.2", "one", "two.2"):
        method.activate(net, name)
        assert models_soft.reads(net)
        torch.testing.assert_close(logits_of(net, row), expected[name], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(expected["one"], expected["two.2"], rtol=1e-3, atol=1e-3)
    method.activate(net, None)
    bare = logits_of(untouched, [[3, 7, 8]])
    torch.testing.assert_close(logits_of(net, [[3, 7, 8]]), bare, rtol=1e-6, atol=1e-6)
    assert not models_soft.reads(net)
    with pytest.raises(ModelError, match="bare base"):
        logits_of(net, row)
    rows = [Encoded(ids=row[0])]
    assert readable(net, rows)[0].ids == [3, 7, 8]
    method.activate(net, "one")
    assert readable(net, rows)[0].ids == row[0]
    torch.testing.assert_close(logits_of(net, row), expected["one"], rtol=1e-6, atol=1e-6)
    with pytest.raises(ModelError, match="three"):
        method.activate(net, "three")
    assert "merge" in method.merge(net)


def test_vectors_of_another_number_are_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    base = tiny.base_of(tiny_gpt2)
    net, head = base.load("causal_lm")
    few, many = (method_of("prompt", task_of("instruct"), base.tokenizer, tokens=n) for n in (4, 5))
    few.attach(net, head)
    few.save(net, tmp_path)
    with pytest.raises(ModelError, match="another shape"):
        many.load(base.load("causal_lm")[0], tmp_path, head)
    with pytest.raises(ModelError, match="among the weights"):
        method_of("p_tuning", task_of("instruct"), base.tokenizer).load(base.load("causal_lm")[0], tmp_path, head)


# --------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Path:
    folder = tiny_llama.with_name("llama-soft")
    return folder if folder.exists() else lively(tiny_llama, folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "q.jsonl", questions(8, longest=6))


@pytest.mark.parametrize("method", [{"name": "prompt"}, {"name": "p_tuning"}], ids=lambda m: m["name"])
def test_plain_peft_loads_what_stands_in_front(method: dict[str, Any], llama: Path, data: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = train(tmp_path, llama, data, method=method, task="instruct", **QUICK)
    plain = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    adapted = PeftModel.from_pretrained(plain, run.path / "model").eval()
    text = torch.tensor([list(range(5, 30))])
    count = run.tuned.method.tokens
    ids = torch.cat([torch.arange(SOFT, SOFT + count)[None], text], 1)
    with torch.no_grad():
        ours = run.tuned.model(input_ids=ids).logits
        theirs = adapted(input_ids=text, attention_mask=torch.ones_like(text)).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
    row = soft.encode(run.tuned.task, chat("Hello", "you"), run.tuned.tokenizer, 500)[0].ids
    assert row[:count] == list(range(SOFT, SOFT + count)), "what was trained stood in front as well"


def test_where_peft_would_be_wrong_there_is_no_peft_file(
    llama: Path, tiny_gemma: Path, tiny_gpt2: Path, data: Path, tmp_path: Path
) -> None:
    rows = write(tmp_path / "l.jsonl", labelled(8))
    runs = [
        train(tmp_path, llama, data, method={"name": "prompt", "position": "between"}, task="instruct", **QUICK),
        train(tmp_path, tiny_gemma, data, method="prompt", task="instruct", **QUICK),  # BOS stands before
        train(tmp_path, tiny_gpt2, rows, method="prompt", task="classify", **QUICK),
    ]
    for run in runs:
        assert [file.name for file in (run.path / "model").glob("*.safetensors")] == ["soft_prompt.safetensors"]
        assert not (run.path / "model" / "adapter_config.json").exists()


def test_a_run_with_a_template_of_its_own(llama: Path, data: Path, tmp_path: Path) -> None:
    """The run keeps the markers; what other programs read has none; the base was scored without soft tokens."""
    task = {"name": "instruct", "template": MARKED}
    run = train(tmp_path, llama, data, method="p_tuning", task=task, data__validation=str(data), **QUICK)
    plain = train(tmp_path, llama, data, method="lora", task={"name": "instruct"}, data__validation=str(data), **QUICK)
    assert run.manifest["base_metrics"] == pytest.approx(plain.manifest["base_metrics"], rel=1e-6)
    assert run.metrics["loss"] != run.manifest["base_metrics"]["loss"]
    assert soft_of(run.manifest["probe"]["ids"]) == [0, 1, 2, 1, 2]
    assert "[soft" not in AutoTokenizer.from_pretrained(run.path / "model").chat_template
    assert "[soft:2]" in json.loads((run.path / "model/task.json").read_text())["state"]["template"]
    assert run.tuned.method.tokens == 3
    assert run.predict("order 1?")[0].value == run.generate("order 1?")


@pytest.mark.parametrize(
    "method",
    [{"name": "prompt", "position": "between"}, {"name": "p_tuning", "encoder": "lstm"}],
    ids=lambda m: m["name"],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_interrupted_and_resumed_is_uninterrupted(
    method: dict[str, Any],
    checkpointing: bool,
    llama: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"method": method, "task": "instruct", "train__max_steps": 6, "train__checkpoint_every": 2}
    settings |= {"train__lr": 1e-2, "train__gradient_checkpointing": checkpointing, "train__batch_size": 4}
    whole = train(tmp_path, llama, data, **settings)
    kind = type(whole.tuned.method)
    original = kind.before_step

    def stop(self: Any, model: Any, step: int, *rest: Any) -> None:
        if step == 5:
            raise KeyboardInterrupt
        original(self, model, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "before_step", stop)
        train(tmp_path, llama, data, run__name="half", **settings)
    again = training.resume(tmp_path / "half")
    for name, tensor in weights_of(whole.path / "model").items():
        assert torch.equal(weights_of(again.model)[name], tensor), name


def test_gradient_checkpointing_changes_nothing(llama: Path, data: Path, tmp_path: Path) -> None:
    runs = [
        train(tmp_path, llama, data, method="prompt", task="instruct", train__gradient_checkpointing=on, **QUICK)
        for on in (False, True)
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-6)


@pytest.mark.parametrize("position", ["before", "after", "between"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma"])
def test_text_does_not_depend_on_the_batch(model: str, position: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{model}")
    awake = folder.with_name(f"{model}-soft-awake")
    base = tiny.base_of(awake if awake.exists() else lively(folder, awake))
    task = task_of("instruct")
    method = method_of("prompt", task, base.tokenizer, tokens=4, position=position)
    net, head = base.load("causal_lm")
    torch.manual_seed(1)
    method.attach(net, head)
    examples = [chat(text) for text in ("Hello", "Where is my parcel?", "The film is good, great, wonderful.")]
    for penalty in (1.0, 1.3):
        sampling = Sampling(max_new_tokens=8, repetition_penalty=penalty)
        texts = [
            [p.value for p in answer(net, task, base.tokenizer, examples, Settings(batch_size=n, sampling=sampling))]
            for n in (1, 3)
        ]
        assert texts[0] == texts[1]
    prompt = prompt_of(net, task, base.tokenizer, examples[0], Settings())
    assert soft_of(prompt) == [0, 1, 2, 3]
    method.activate(net, None)
    assert prompt_of(net, task, base.tokenizer, examples[0], Settings()) == bare(prompt)


def test_another_method_refuses_a_template_with_soft_tokens(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    task = {"name": "instruct", "template": "[soft:1]" + tiny.CHATML}
    with pytest.raises(ConfigError, match="learns none") as caught:
        train(tmp_path, tiny_llama, data, method="lora", task=task)
    assert "p_tuning" in caught.value.hint


# ----------------------------------------------------------------------------------------- show and check


def test_show_and_check_see_soft_tokens(tiny_llama: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", [{"question": f"你好 {i}?", "answer": "在三十天内"} for i in range(10)])

    def settings(*overrides: str) -> Any:
        return configuration.load(None, [f"data.train={file}", f"model={tiny_llama}", *overrides])

    between = settings("method=prompt", "method.tokens=3", "method.position=between")
    tokens = show(between, 1)["rows"][0]["tokens"]
    text = "".join(token["text"] for token in tokens)
    assert "assistant\n[soft 0][soft 1][soft 2]在三十天内<|im_end|>" in text
    assert all(token["special"] and not token["supervised"] for token in tokens if token["id"] >= SOFT)
    plain, found = check(settings("method=lora")), check(between)
    assert found["lengths"]["max"] == plain["lengths"]["max"] + 3
    assert found["supervised_tokens"] == plain["supervised_tokens"]
    assert not [finding for finding in found["findings"] if finding["kind"] == "prompt_mismatch"]
    with pytest.raises(ConfigError, match="learns none"):
        show(settings("method=lora", "task={name: instruct, template: '[soft:1]{{ messages[0].content }}'}"), 1)


def test_lm_windows_train(tiny_gpt2: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", documents(6))
    run = train(tmp_path, tiny_gpt2, file, method="prompt", task="lm", data__validation=str(file), **QUICK)
    assert run.metrics["loss"] < run.manifest["base_metrics"]["loss"]
    assert build.load(run.dir).model.soft_prompt.active == "default"


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_on_a_quantised_base(kind: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    """Embeddings are not quantised, so vectors are learnt and stored as on any base."""
    pytest.importorskip("bitsandbytes")
    method = {"name": "prompt", "tokens": 4}
    run = train(tmp_path, tiny_llama, data, method=method, task="instruct", model__quantise=kind, **QUICK)
    stored = weights_of(run.path / "model")
    assert {name: tuple(t.shape) for name, t in stored.items()} == {"prompt_embeddings": (4, tiny.HIDDEN)}
    assert torch.equal(run.tuned.model.soft_prompt.vectors(), stored["prompt_embeddings"])
