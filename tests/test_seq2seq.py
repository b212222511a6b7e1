"""Encoder-decoder models: loss and text as transformers computes them, sources, answers and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tunery
from small import one_thread, train, translations, write  # noqa: F401
from tiny import base_of
from tunery import config as configuration
from tunery import registry
from tunery.data import soft
from tunery.data.batch import collate
from tunery.errors import ConfigError, DataError, ModelError
from tunery.evaluate import prompt_of
from tunery.generate.engine import Sampling, generate
from tunery.protocols import IGNORE, SOFT, Example, Message, Row
from tunery.run.check import check
from tunery.run.init import init
from tunery.run.show import show
from tunery.run.train import settings

MODELS = ["t5", "bart"]


def task_of(**settings: Any) -> Any:
    task = registry.get("task", "seq2seq")
    return task(task.Config(**settings))


def example_of(prompt: str, response: str | None = None) -> Example:
    values = {"prompt": prompt} | ({} if response is None else {"response": response})
    return registry.get("format", "pairs")().example(Row(values, "f", 1), need_target=False)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Path:
    """With matrices so large that what is written depends on what was read."""
    from safetensors.torch import load_file, save_file

    path: Path = request.getfixturevalue(f"tiny_{request.param}")
    folder = path.with_name(f"{path.name}-loud")
    if not folder.exists():
        import shutil

        shutil.copytree(path, folder)
        tensors = load_file(folder / "model.safetensors")
        quiet = {name for name, t in tensors.items() if t.ndim > 1 and (t.std() < 0.05 or "EncDecAttention" in name)}
        loud = {name: t * 8 if name in quiet else t for name, t in tensors.items()}
        save_file(loud, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# ------------------------------------------------------------------------------------------------- rows


def test_source_and_answer(model: Path) -> None:
    tokenizer = base_of(model).tokenizer
    row = task_of(prefix="translate: ").encode(example_of("Where is my parcel?", "你好 London"), tokenizer, 99)[0]
    assert row.ids == tokenizer("translate: Where is my parcel?")["input_ids"]
    assert tokenizer.decode(row.answer, skip_special_tokens=True) == "你好 London"
    assert row.answer[-1] == tokenizer.eos_token_id
    assert row.answer.count(tokenizer.eos_token_id) == 1
    assert row.labels is None
    assert row.supervised == len(row.answer)
    assert not row.truncated
    assert task_of(prefix="translate: ").prompt(example_of("Where is my parcel?"), tokenizer, 99) == row.ids


def test_long_ones_keep_their_end(model: Path) -> None:
    tokenizer = base_of(model).tokenizer
    long = example_of("good " * 50, "bad " * 50)
    whole = task_of(max_answer=500).encode(long, tokenizer, 500)[0]
    cut = task_of(max_answer=8).encode(long, tokenizer, 20)[0]
    assert cut.truncated
    assert not whole.truncated
    assert cut.ids == [*whole.ids[:19], whole.ids[-1]]
    assert cut.answer == [*whole.answer[:7], whole.answer[-1]]
    assert task_of(max_answer=8).encode(example_of("a", "bad " * 50), tokenizer, 20)[0].truncated
    with pytest.raises(DataError, match="no answer"):
        task_of().encode(example_of("a"), tokenizer, 20)


def test_soft_tokens_in_the_prefix(model: Path) -> None:
    tokenizer = base_of(model).tokenizer
    task, bare = task_of(prefix="[soft:2] good [soft:1]"), task_of(prefix=" good ")
    assert task.soft_tokens(tokenizer) == 3
    row = soft.encode(task, example_of("London", "Paris"), tokenizer, 99)[0]
    assert [i for i in row.ids if i >= SOFT] == [SOFT, SOFT + 1, SOFT + 2]
    assert row.ids[-1] == bare.encode(example_of("London", "Paris"), tokenizer, 99)[0].ids[-1]
    assert soft.prompt(task, example_of("London"), tokenizer, 99) == row.ids


# ------------------------------------------------------------------------------------------------ models


def test_the_loss_is_that_of_transformers(model: Path) -> None:
    base, task = base_of(model), task_of()
    rows = [task.encode(example_of(r["prompt"], r["response"]), base.tokenizer, 99)[0] for r in translations(6)]
    net, head = task.head(base)
    assert not head
    batch = collate(rows, base.tokenizer.pad_token_id)
    with torch.no_grad():
        total, count, _ = task.loss(net, batch)
        theirs = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["answer"]).loss
        alone = [task.loss(net, collate([row], base.tokenizer.pad_token_id)) for row in rows]
    assert int(count) == int((batch["answer"] != IGNORE).sum()) == sum(row.supervised for row in rows)
    assert float(total / count) == pytest.approx(float(theirs), rel=1e-5)
    assert sum(float(one) for one, _, _ in alone) == pytest.approx(float(total), rel=1e-5)


def test_texts_are_those_of_transformers_alone_and_in_a_batch(model: Path) -> None:
    base, task = base_of(model), task_of()
    net, _ = task.head(base)
    prompts = [
        task.prompt(example_of(text), base.tokenizer, 99) for text in ("a", "Where is London?", "你好" * 9, "3 4")
    ]
    stop = task.stop_ids(base.tokenizer)
    theirs = []
    for prompt in prompts:
        out = net.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, forced_bos_token_id=None,
            forced_eos_token_id=None, num_beams=1, no_repeat_ngram_size=0,
        )[0, 1:].tolist()  # fmt: skip
        theirs.append(out[: out.index(stop[0])] if stop[0] in out else out)
    assert len({tuple(ids) for ids in theirs}) == 4, "the prompts must matter"
    sampling = Sampling(max_new_tokens=12)
    assert generate(net, prompts, stop, sampling, batch_size=4) == theirs
    assert generate(net, prompts, stop, sampling, batch_size=1) == theirs


def test_rows_that_are_finished_leave_the_batch(model: Path) -> None:
    """Each of some tokens of one answer ends it at another place; the others must not change by it."""
    base, task = base_of(model), task_of()
    net, _ = task.head(base)
    prompts = [task.prompt(example_of(text), base.tokenizer, 99) for text in ("a", "Where is London?", "你好" * 9)]
    free = generate(net, prompts, [], Sampling(max_new_tokens=10), batch_size=3)
    for stop in {token for answer in free for token in answer}:
        cut = [a[: a.index(stop)] if stop in a else a for a in free]
        assert generate(net, prompts, [stop], Sampling(max_new_tokens=10), batch_size=3) == cut


def test_a_model_without_start_token_is_refused(tiny_t5: Path) -> None:
    net, _ = task_of().head(base_of(tiny_t5))
    net.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        generate(net, [[3, 4]], [1])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_answers_and_reloads(method: str, model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{word} {i}?", "response": f"{i} {word}"}
        for i, word in enumerate(("good", "bad", "London", "北京"))
    ]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, model, data, method=method, task="seq2seq", task__prefix="turn: ", data__validation=str(data),
        train__lr=1e-2, train__max_steps=200, train__patience=None, eval__every=100, eval__max_new_tokens=16,
        eval__generate_rows=4, train__dropout=0.0,
    )  # fmt: skip
    assert run.metrics["loss"] < 0.3 * run.manifest["base_metrics"]["loss"]
    assert run.metrics["exact_match"] >= 0.75
    asked = [row["prompt"] for row in rows]
    answers = run.predict(asked)
    assert tunery.load(run.path).predict(asked) == answers
    assert sum(p.value == row["response"] for p, row in zip(answers, rows, strict=True)) >= 3
    pieces: list[str] = []
    text = run.generate([Message("user", asked[0])], on_text=pieces.append)
    assert "".join(pieces).strip() == text == answers[0].value


# ------------------------------------------------------------------------------------------- around them


def test_other_kinds_of_model_are_told_the_task_for_them(tiny_llama: Path, tiny_t5: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", translations(12))
    with pytest.raises(ModelError, match="needs an encoder-decoder") as caught:
        train(tmp_path, tiny_llama, data, task="seq2seq")
    assert "task=instruct" in caught.value.hint
    with pytest.raises(ModelError, match="needs a decoder") as caught:
        train(tmp_path, tiny_t5, data, task="instruct")
    assert "task=seq2seq" in caught.value.hint


def test_init_does_not_propose_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "a.jsonl", translations(12))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="encoder-decoder"):
        init([str(data)], overrides=["task=seq2seq"])


def test_check_and_show(tiny_t5: Path, tmp_path: Path) -> None:
    rows = [*translations(12), {"prompt": "long " * 60, "response": "short"}]
    data = write(tmp_path / "a.jsonl", rows)
    config = configuration.load(None, [f"data.train={data}", f"model={tiny_t5}", "task=seq2seq", "data.max_length=60"])
    found = check(config)
    assert found["truncated"] == 1
    assert {finding["kind"] for finding in found["findings"]} == {"truncated", "few_rows"}
    row = show(config, 1)["rows"][0]
    marked = "".join(token["text"] for token in row["tokens"] if token["supervised"])
    assert marked.removesuffix("</s>") in {r["response"] for r in rows}
    assert row["supervised"] == sum(bool(token["supervised"]) for token in row["tokens"])


@pytest.mark.parametrize("most", [300, 600])
def test_a_source_is_read_whole_however_long_the_answer_may_be(model: Path, most: int) -> None:
    base, task = base_of(model), task_of()
    row = example_of("good " * 200, "bad")
    (learnt,) = task.encode(row, base.tokenizer, 512)
    assert not learnt.truncated
    values = [f"model={model}", f"data.max_length={len(learnt.ids)}", f"eval.max_new_tokens={most}"]
    how = settings(configuration.load(None, values), base, None)
    assert how.max_prompt == how.max_length == len(learnt.ids)
    assert prompt_of(task.head(base)[0], task, base.tokenizer, row, how) == learnt.ids


def test_a_decoder_whose_answers_leave_no_room_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """Question and answer share its places, unlike those of an encoder-decoder."""
    data = write(tmp_path / "a.jsonl", translations(12))
    with pytest.raises(ConfigError, match="reads 512 tokens") as caught:
        train(tmp_path / "runs", tiny_llama, data, task="instruct", eval__max_new_tokens=512)
    assert caught.value.where == "eval.max_new_tokens"
    assert not (tmp_path / "runs").exists()
