"""Conversation → ids and mask: exactly the answers are learnt, with the token that ends them, after one BOS."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny
from tunery import registry
from tunery.data import templates
from tunery.data.render import added_bos, encode_row, encode_text, prompt_ids, render
from tunery.errors import ConfigError, DataError
from tunery.protocols import IGNORE, Example, Message

CHATML = templates.TEMPLATES["chatml"]
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}
BEFORE = {"human_assistant": " "}
"""What an answer begins with in that template."""
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""A template without any special token."""


@pytest.fixture(scope="session")
def chat(tiny_llama: Path) -> Any:
    """Padding = EOS = <|im_end|>, ChatML, no BOS of its own."""
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="session")
def bare(tiny_gpt2: Path) -> Any:
    """One special token, which is BOS, EOS and padding."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="session")
def with_bos() -> Any:
    """Puts <s> in front of plain text, as Llama's does."""
    tokenizer = tiny.byte_bpe(["<s>", "</s>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def turns(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    said = [Message(roles[i % 2], content) for i, content in enumerate(contents)]  # type: ignore[arg-type]
    return (*([Message("system", system)] if system else []), *said)


def learnt(ids: list[int], labels: list[int], tokenizer: Any) -> list[str]:
    """The text of every run of supervised tokens."""
    runs: list[list[int]] = []
    last = IGNORE
    for token, label in zip(ids, labels, strict=True):
        assert label in (IGNORE, token)
        if label != IGNORE:
            if last == IGNORE:
                runs.append([])
            runs[-1].append(token)
        last = label
    return [tokenizer.decode(run) for run in runs]


# ---------------------------------------------------------------------------------------------- the mask


def test_the_answer_and_its_end_are_learnt_and_nothing_else(chat: Any) -> None:
    ids, labels = render(turns("What is the capital of France?", "Paris."), chat, CHATML)
    assert learnt(ids, labels, chat) == ["Paris.<|im_end|>"]
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    assert chat.decode(ids) == question + "<|im_start|>assistant\nParis.<|im_end|>\n"


def test_padding_equal_to_eos_is_masked_by_position(chat: Any) -> None:
    """<|im_end|> also closes the question and pads; only the one after the answer is learnt."""
    assert chat.pad_token_id == chat.eos_token_id
    ids, labels = render(turns("Hello", "Hi"), chat, CHATML)
    ends = [i for i, token in enumerate(ids) if token == chat.eos_token_id]
    assert [labels[i] != IGNORE for i in ends] == [False, True]


def test_every_answer_of_a_conversation_is_learnt(chat: Any) -> None:
    talk = turns("Hello", "Hi there.", "Where is my parcel?", "It arrives on Monday.", system="Be brief.")
    assert learnt(*render(talk, chat, CHATML), chat) == ["Hi there.<|im_end|>", "It arrives on Monday.<|im_end|>"]
    assert learnt(*render(talk, chat, CHATML, "last"), chat) == ["It arrives on Monday.<|im_end|>"]
    ids, labels = render(talk, chat, CHATML, "all")
    assert labels == ids


def test_a_conversation_that_ends_with_a_question_ends_with_it(chat: Any) -> None:
    talk = turns("Hello", "Hi there.", "Where is my parcel?")
    ids, labels = render(talk, chat, CHATML)
    assert learnt(ids, labels, chat) == ["Hi there.<|im_end|>"]
    assert chat.decode(ids).endswith("Where is my parcel?<|im_end|>\n")


@pytest.mark.parametrize("name", sorted(templates.TEMPLATES))
@pytest.mark.parametrize("answer", ["Paris.", "您可以在三十天内退货。", "?!", " leading", "two\nlines", "7"])
@pytest.mark.parametrize("which", ["chat", "bare", "with_bos"])
def test_named_templates_teach_exactly_the_answer(
    name: str, answer: str, which: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(which)
    ids, labels = render(turns("怎么退货?", answer), tokenizer, templates.find(name, tokenizer))
    (text,) = learnt(ids, labels, tokenizer)
    end = ENDS.get(name, tokenizer.eos_token)
    if name in ENDS and end != tokenizer.eos_token:  # there it is no token, so the EOS closes the answer
        end += tokenizer.eos_token
    assert text == BEFORE.get(name, "") + answer + end
    last = max(i for i, label in enumerate(labels) if label != IGNORE)
    assert ids[last] == tokenizer.eos_token_id


@pytest.mark.parametrize("loss_on", ["answers", "last", "all"])
def test_a_template_without_an_end_gets_the_eos(bare: Any, loss_on: Any) -> None:
    ids, labels = render(turns("Hello", "Hi"), bare, PLAIN, loss_on)
    assert (ids[-1], labels[-1]) == (bare.eos_token_id, bare.eos_token_id)
    assert ids.count(bare.eos_token_id) == 1
    assert bare.decode(ids[:-1]).rstrip("\n") == "user: Hello\nassistant: Hi"


def test_an_answer_that_has_its_end_gets_no_second_one(chat: Any) -> None:
    talk = turns("Hello", "Hi")
    for loss_on in ("answers", "last", "all"):
        ids, _ = render(talk, chat, CHATML, loss_on)  # type: ignore[arg-type]
        assert ids.count(chat.eos_token_id) == 2, loss_on


def test_no_end_anywhere_is_an_error() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.byte_bpe([]))
    with pytest.raises(ConfigError, match="ends an answer"):
        render(turns("Hello", "Hi"), tokenizer, PLAIN)


def test_labels_of_random_conversations_decode_to_their_answers(chat: Any, bare: Any) -> None:
    pick = random.Random(7)
    pieces = ["Paris", "退货", " ", "\n", "?", "，", "a b", "12", "é", "🙂", "'s", "<b>"]
    for _ in range(60):
        contents = [
            "".join(pick.choices(pieces, k=pick.randint(1, 6))).strip() or "x" for _ in range(2 * pick.randint(1, 3))
        ]
        for tokenizer in (chat, bare):
            for name in templates.TEMPLATES:
                end = ENDS.get(name, tokenizer.eos_token)
                expected = [BEFORE.get(name, "") + answer + end for answer in contents[1::2]]
                if end != tokenizer.eos_token:
                    expected[-1] += tokenizer.eos_token
                ids, labels = render(turns(*contents), tokenizer, templates.find(name, tokenizer))
                assert learnt(ids, labels, tokenizer) == expected, (name, contents)


# ---------------------------------------------------------------------------------------------- one BOS


def test_one_bos_whether_the_template_has_one_or_not(with_bos: Any) -> None:
    talk = turns("Hello", "Hi")
    for template in (PLAIN, "{{ bos_token }}" + PLAIN):
        ids, labels = render(talk, with_bos, template)
        assert (ids[0], ids.count(with_bos.bos_token_id), labels[0]) == (with_bos.bos_token_id, 1, IGNORE)
        assert learnt(ids, labels, with_bos) == ["Hi</s>"]
        assert prompt_ids(talk[:1], with_bos, template).count(with_bos.bos_token_id) == 1
    assert added_bos(with_bos) == with_bos.bos_token_id


def test_no_bos_where_the_model_has_none(chat: Any, bare: Any) -> None:
    assert added_bos(chat) is None
    assert added_bos(bare) is None
    assert bare.decode(encode_text("Hello", bare)[0]) == "Hello"


# --------------------------------------------------------------------------------- prompts are prefixes


@pytest.mark.parametrize("which", ["chat", "bare", "with_bos"])
def test_a_prompt_is_a_prefix_of_what_was_learnt(which: str, request: pytest.FixtureRequest) -> None:
    """Otherwise the model would be asked in other tokens than it was taught in."""
    tokenizer = request.getfixturevalue(which)
    texts = [*templates.TEMPLATES.values(), PLAIN, "{{ bos_token }}" + PLAIN]
    talk = turns(
        "Hello, 你好?", "Hi there.", "Where?", "?Here", "And now", "您可以在三十天内退货。", system="Be brief."
    )
    for template in texts:
        ids, labels = render(talk, tokenizer, template)
        for turn, message in enumerate(talk):
            if message.role != "assistant":
                continue
            prompt = prompt_ids(talk[:turn], tokenizer, template)
            assert ids[: len(prompt)] == prompt, template
            assert labels[len(prompt)] == ids[len(prompt)]
        assert prompt_ids(talk, tokenizer, template) == prompt_ids(talk[:-1], tokenizer, template)


# ------------------------------------------------------------------------------------------- templates


def test_template_from_the_configuration(chat: Any, bare: Any) -> None:
    assert templates.find("model", chat) == chat.chat_template
    assert templates.find("model", bare) == templates.TEMPLATES["human_assistant"]
    own = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert templates.find(own, chat) == own
    ids, _ = render(turns("Hello", "Hi"), bare, templates.find("human_assistant", bare))
    assert bare.decode(ids).strip() == "Human: Hello\nAssistant: Hi<|endoftext|>"
    ids, _ = render(turns("Hello", "Hi"), bare, templates.find("zh_instruct", bare))
    assert bare.decode(ids).strip() == "指令：Hello\n输出：Hi<|endoftext|>"


@pytest.mark.parametrize("bad", ["chatmll", "", "{{ messages", "{% for m in messages %}{{ m.content }}"])
def test_a_bad_template_is_a_configuration_error(chat: Any, bad: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(turns("Hello", "Hi"), chat, templates.find(bad, chat))
    assert caught.value.where == "task.template"


def test_a_template_that_raises_is_a_configuration_error(chat: Any) -> None:
    strict = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message must come first') }}{% endif %}"
    with pytest.raises(ConfigError, match="a system message must come first"):
        render(turns("Hello", "Hi"), chat, strict)


def test_a_template_cannot_run_code(chat: Any) -> None:
    with pytest.raises(ConfigError, match="template"):
        render(turns("Hello", "Hi"), chat, "{{ messages.__class__.__mro__[1].__subclasses__() }}")


def test_a_template_that_rewrites_earlier_turns_is_refused(chat: Any) -> None:
    only_last = "{{ messages[-1].content }}{% if add_generation_prompt %}→{% endif %}"
    with pytest.raises(DataError, match="answers cannot be told apart"):
        render(turns("Hello", "Hi"), chat, only_last)


# ------------------------------------------------------------------------------------- the task instruct


def instruct(**settings: Any) -> Any:
    task = registry.get("task", "instruct")
    return task(task.Config(**settings))


def test_the_system_message_stands_before_conversations_without_one(chat: Any) -> None:
    task = instruct(system="Be brief.")
    without = Example("f", 1, messages=turns("Hello", "Hi"))
    with_one = Example("f", 2, messages=turns("Hello", "Hi", system="Be long."))
    for example, system in ((without, "Be brief."), (with_one, "Be long.")):
        (row,) = task.encode(example, chat, 512)
        prompt = task.prompt(example, chat, 512)
        assert row.ids[: len(prompt)] == prompt
        assert chat.decode(row.ids).startswith(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user")
        assert chat.decode(row.ids).count("system") == 1


def test_stop_ids_are_what_answers_end_with(chat: Any, bare: Any) -> None:
    assert instruct().stop_ids(chat) == (chat.eos_token_id,)
    assert instruct(template=PLAIN).stop_ids(bare) == (bare.eos_token_id,)
    assert instruct(loss_on="all").stop_ids(chat) == (chat.eos_token_id,)
    other = "{% for m in messages %}{{ m.content }}{{ unk_token if m.role == 'assistant' else ' ' }}{% endfor %}"
    assert set(instruct(template=other).stop_ids(chat)) == {chat.unk_token_id, chat.eos_token_id}


def test_long_rows_are_cut_and_say_so(chat: Any) -> None:
    example = Example("f", 1, messages=turns("Hello", "Hi there. " * 50))
    (whole,), (cut,) = instruct().encode(example, chat, 4096), instruct().encode(example, chat, 20)
    assert (whole.truncated, cut.truncated, len(cut.ids)) == (False, True, 20)
    assert (cut.ids, cut.labels) == (whole.ids[:20], whole.labels[:20])
    with pytest.raises(DataError, match="shorten it"):
        instruct().prompt(example, chat, 5)


# ------------------------------------------------------------------------------------------ whole rows


def test_rows_have_the_models_own_special_tokens(tiny_bert: Path, tiny_roberta: Path) -> None:
    for folder, single, pair in (
        (tiny_bert, "[CLS] the film [SEP]", "[CLS] the film [SEP] is good [SEP]"),
        (tiny_roberta, "<s>the film</s>", "<s>the film</s></s>is good</s>"),
    ):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        one = encode_row(Example("f", 1, text="the film"), tokenizer, 64)
        two = encode_row(Example("f", 1, text="the film", text_pair="is good"), tokenizer, 64)
        assert tokenizer.decode(one.ids) == single
        assert tokenizer.decode(two.ids) == pair
        assert one.type_ids is None
        if folder == tiny_bert:
            assert two.type_ids == [0] * (len(one.ids)) + [1] * (len(two.ids) - len(one.ids))


def test_a_long_pair_is_cut_at_the_longer_text(tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    row = encode_row(Example("f", 1, text="good", text_pair="bad " * 50), tokenizer, 12)
    assert row.truncated
    assert len(row.ids) == 12
    assert tokenizer.decode(row.ids).startswith("[CLS] good [SEP] bad bad")
    assert tokenizer.decode(row.ids).endswith("bad [SEP]")


# -------------------------------------------------------------------------------------------- task lm


@pytest.mark.parametrize("stride", [None, 3, 7])
def test_windows_count_every_token_once(bare: Any, stride: int | None) -> None:
    task = registry.get("task", "lm")(registry.get("task", "lm").Config(stride=stride))
    text = "Hello, my name is Anna and I live in London. 你好。"
    whole = [*bare(text, add_special_tokens=False)["input_ids"], bare.eos_token_id]
    windows = task.encode(Example("f", 1, text=text), bare, 8)
    counted = [label for window in windows for label in window.labels[1:] if label != IGNORE]
    assert counted == whole[1:]
    assert all(len(window.ids) <= 8 for window in windows)
    assert all(window.labels[0] == IGNORE for window in windows)
