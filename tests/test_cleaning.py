"""Cleaning: every step on rows as they come, in English and Chinese; the same for training, testing and predicting."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import verbs
from small import one_thread, spans, tagged, train, write  # noqa: F401
from tunery import config, registry
from tunery.errors import ConfigError, DataError, TuneryError
from tunery.protocols import Cleaner, Example, Message
from tunery.run.before_after import before_after
from tunery.run.cleaning import Cleaning
from tunery.run.dataset import load_dataset

NEEDS = {"unicode": "ftfy", "chinese": "opencc", "segment": "jieba", "stopwords": "jieba"}
CHANGED = {
    "unicode": [("cafÃ© crÃ¨me", "café crème"), ("æœ\u008dåŠ¡å¾ˆå¥½", "服务很好"), ("e\u0301te\u0301", "été")],
    "html": [
        ("<p>Clean &amp; <b>quiet</b></p><p>Again!</p>", "Clean & quiet\nAgain!"),
        ("<div class='x'>服务<br/>很好</div><!-- ad --><script>a='<b>'</script>", "服务\n很好"),
        ("<td>1</td><td>2</td>", "1  2"),
        ('<a href="http://x.y/?a=1>2">here</a>', "here"),
    ],
    "whitespace": [
        ("  two  words\u00a0here \t", "two words here"),
        ("房间\u3000很\u200b大\r\n\r\n\r\n\r\n很安静", "房间 很大\n\n很安静"),
        ("def f():\n    return  1", "def f():\n    return 1"),
    ],
    "chinese": [("這間飯店的服務員說頭髮", "这间饭店的服务员说头发")],
    "mask": [
        ("See https://shop.example/a?b=1, mail jo.b+x@mail.example.", "See [URL], mail [EMAIL]."),
        ("请打13812345678或010-62345678，网址www.example.cn。", "请打[PHONE]或[PHONE]，网址[URL]。"),
        ("Call +49 30 1234567 or (555) 010-1234.", "Call [PHONE] or [PHONE]."),
    ],
    "stopwords": [
        ("The room of the hotel is not clean.", "room hotel not clean."),
        ("我们的目的是休息，不是工作", "目的休息，不是工作"),
    ],
    "stem": [("The deliveries were running late", "the deliveri were run late")],
    "segment": [("我来到北京清华大学 today", "我 来到 北京 清华大学 today")],
}
UNCHANGED = {
    "unicode": ["It’s “fine”，真的！", "&amp; <b>"],
    "html": ["a < b and c > d", "<name> is <3", "if i<b then", "房间<很好>", "no tags & no entities"],
    "whitespace": ["one two", "👨‍👩‍👧 fine", "很好 very good"],
    "chinese": ["plain English", "这间饭店"],
    "mask": ["2023-01-15 at 3.14159265", "身份证110101199003071234", "order 20230115001, 50-60 %", "a@b or me@home"],
    "stopwords": ["not good"],
    "stem": ["北京"],
    "segment": ["hello"],
    "length": ["x"],
}


def step(name: str, **keys: Any) -> Cleaner:
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    return registry.get("cleaner", name)(registry.config_class("cleaner", name)(**keys))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", registry.names("cleaner"))
def test_every_step_on_real_rows(name: str) -> None:
    """Twice is as good as once, what is fine stays, nothing breaks on odd text."""
    clean = step(name, min=1).clean if name == "length" else step(name).clean
    for before, after in CHANGED.get(name, ()):
        assert clean(before) == after
        assert clean(after) == after or name == "stem"
    assert name == "length" or CHANGED[name], "an example for every step"
    for text in UNCHANGED[name]:
        assert clean(text) == text
    for odd in ("", " ", "\ud800", "<" * 50_000, '<b "' * 20_000, "a@" * 30_000, "1-" * 30_000, " " * 50_000 + "\n<"):
        assert isinstance(clean(odd), str)


def test_steps_have_keys() -> None:
    assert step("chinese", to="traditional").clean("头发和出发") == "頭髮和出發"
    assert step("mask", url=False).clean("www.example.org a@b.example") == "www.example.org [EMAIL]"
    assert step("unicode", width=True, quotes=True).clean("Ａ’ｓ") == "A's"
    assert step("whitespace", one_line=True, chinese=True).clean("很 好\n吃 ok") == "很好吃 ok"
    assert step("stopwords", words=["room"]).clean("The room is clean") == "The is clean"
    assert step("stem", language="german").clean("Häuser") == "haus"
    assert step("length", min=3).drops("ok") == "2 characters, fewer than 3"
    assert step("length", max=2, unit="words").drops("很好吃") == "3 words, more than 2"
    assert step("length", min=2, max=3).drops("abc") is None


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(ConfigError, match=rf"{NEEDS[name]} → pip install 'tunery\[clean\]'"):
        Cleaning(config.load(None, [f"data.clean=[{name}]"]).data.clean)


# ------------------------------------------------------------------------------------------- the keys


def test_one_form_of_the_list() -> None:
    found = config.load(None, ["data.clean=[html, {name: length, min: 3}]"])
    assert [s.model_dump() for s in found.data.clean] == [
        {"name": "html"},
        {"name": "length", "min": 3, "max": None, "unit": "characters"},
    ]
    assert config.load(None, [f"data.clean={json.dumps(found.dump()['data']['clean'])}"]).data.clean == found.data.clean


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("data.clean=[htlm]", r"data.clean\[0\]: unknown step 'htlm' → did you mean 'html'\?"),
        ("data.clean=html", r"data.clean: a list of steps is needed, not 'html' → write \[html\]"),
        ("data.clean=[{mask: {url: true}}]", r"a step is needed, not .* → write {name: mask, …}"),
        ("data.clean=[{name: mask, ulr: true}]", r"data.clean\[0\].mask.ulr: unknown key → did you mean '.*mask.url'"),
        ("data.clean=[{name: length, min: true}]", r"length.min: a whole number or null is needed, not true"),
        ("data.augment=[{name: swap, share: 2}]", r"data.augment\[0\].swap.share: must be less than or equal to 1"),
        ("data.augment=[back_translation]", r"back_translation.file: is missing"),
    ],
)
def test_wrong_steps_are_named(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load(None, [given])


def test_all_wrong_steps_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, ["data.clean=[htlm, unicod]", "data.augment=[swop]", "train.lr=0"])
    for part in ("'htlm'", "'unicod'", "'swop'", "train.lr"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "steps", ["[length]", "[{name: length, min: 3, max: 2}]", "[{name: mask, url: false, email: false, phone: false}]"]
)
def test_steps_that_do_nothing_are_refused(steps: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.clean: step"):
        Cleaning(config.load(None, [f"data.clean={steps}"]).data.clean)


# ------------------------------------------------------------------------------------------- examples


def cleaning(*steps: Any) -> Cleaning:
    return Cleaning(config.load(None, [], {"data": {"clean": list(steps)}}).data.clean)


def test_questions_by_all_steps_answers_by_safe_ones() -> None:
    turns = (
        Message("system", "<b>Be  brief</b>"),
        Message("user", "<b>Two  words</b>"),
        Message("assistant", "<b>One  answer</b>"),
    )
    row = Example("a", 1, messages=turns, references=("<b>One  answer</b>",), contains=("One  answer",), label=None)
    found = cleaning("html", "whitespace").one(row)
    assert [m.content for m in found.messages] == ["<b>Be  brief</b>", "Two words", "<b>One answer</b>"]
    assert found.references == ("<b>One answer</b>",) and found.contains == ("One answer",)


def test_labels_stay() -> None:
    row = Example("a", 1, text="<i>x</i>", text_pair="<i>y</i>", label="<i>z</i>")
    assert cleaning("html").one(row) == Example("a", 1, text="x", text_pair="y", label="<i>z</i>")


def test_answers_are_found_again() -> None:
    context = "In  1999  Ann  Lee  opened  the  shop .  Ann Lee  lives in Rome."
    start = context.rindex("Ann Lee")
    row = Example("a", 1, text="Who  lives?", text_pair=context, references=("Ann Lee", "Rome"), starts=(start, -1))
    found = cleaning("whitespace").one(row)
    assert found.text_pair == "In 1999 Ann Lee opened the shop . Ann Lee lives in Rome." and found.text == "Who lives?"
    assert found.starts == (found.text_pair.rindex("Ann Lee"), -1)
    with pytest.raises(ConfigError, match=r"step html would change texts .* → use .* whitespace"):
        cleaning("html").one(row)


def test_words_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", tagged(6))
    with pytest.raises(ConfigError, match="step html cannot clean lists of words"):
        load_dataset(config.load(None, [f"data.train={file}", "data.clean=[html]"]).data, None, 1)
    found = load_dataset(config.load(None, [f"data.train={file}", "data.clean=[{name: length, min: 9}]"]).data, None, 1)
    assert found.splits["train"]


ROWS = [
    {"text": f"<p>The  room {i} was fine</p>" if i % 2 else f"plain room {i}", "label": "ab"[i // 2 % 2]}
    for i in range(20)
]


def test_the_ledger_says_what_changed_and_what_went(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "<br>", "label": "a"}, {"text": "<b>x</b>", "label": "b"}]
    file = write(tmp_path / "t.jsonl", rows)
    steps = "data.clean=[html, whitespace, {name: length, min: 3}]"
    with pytest.raises(DataError, match=r"t.jsonl:21: 1 row cannot be used.*leaves nothing of the row"):
        load_dataset(config.load(None, [f"data.train={file}", steps]).data, None, 1)
    data = config.load(None, [f"data.train={file}", f"data.test={file}", steps, "data.on_bad_row=drop"]).data
    found = load_dataset(data, None, 1)
    summary = found.ledger.summary()
    assert summary["dropped"] == {"bad": 2, "length": 2} and summary["cleaned"] == 20 and summary["rows_read"] == 44
    assert sum(summary["splits"].values()) == 40
    assert found.ledger.bucket(f"{file}:22", "train") == "dropped:length"
    assert {e.text for e in found.splits["test"]} == {
        f"The room {i} was fine" if i % 2 else f"plain room {i}" for i in range(20)
    }
    assert any("cleaning changed 10 rows" in note for note in found.notes)
    with pytest.raises(DataError, match="no train row is left after step length; the first: 12 characters"):
        load_dataset(config.load(None, [f"data.train={file}", "data.clean=[{name: length, max: 1}]"]).data, None, 1)


def test_without_steps_nothing_happens(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", ROWS)
    found = load_dataset(config.load(None, [f"data.train={file}"]).data, None, 1)
    assert "cleaned" not in found.ledger.summary() and "<p>The  room 1 was fine</p>" in {
        e.text for split in found.splits.values() for e in split
    }


@pytest.mark.parametrize("name", ["stem", "stopwords", "segment"])
def test_steps_that_seldom_help_say_so(name: str) -> None:
    step(name)
    assert cleaning(name).notes == [f"data.clean: {registry.get('cleaner', name).note}"]
    assert "subwords seldom gain" in registry.get("cleaner", name).note


# --------------------------------------------------------------------------------------------- a run


def test_a_run_cleans_what_it_is_asked(tiny_bert: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", ROWS)
    clean = ["html", "whitespace", {"name": "length", "min": 3}]
    run = train(tmp_path, tiny_bert, file, data__clean=clean, data__test=str(file), train__max_steps=2)
    assert run.config.data.clean[2].min == 3  # type: ignore[attr-defined]
    assert json.loads((run.path / "ledger.json").read_text())["cleaned"] == 20
    odd, plain = "<p>The  room 1 was fine</p>", "The room 1 was fine"
    first, second = run.predict([odd, plain])
    assert first == second
    assert run.predict([{"text": odd}])[0] == first
    assert run.predict(["x"]), "rows to predict are never left out"
    asked = write(tmp_path / "p.jsonl", [{"text": odd}, {"text": "<i>x</i>"}])
    assert [record["input"] for record in run.predict_file(str(asked))] == [plain, "x"]
    with pytest.raises(DataError, match="<input>:1: cleaning leaves nothing"):
        run.predict(["<br>"])
    scored = run.evaluate(str(write(tmp_path / "e.jsonl", [*ROWS[:4], {"text": "<i>x</i>", "label": "a"}])))
    assert scored["rows"] == 4 and scored["dropped"] == {"length": 1}
    own = run.evaluate(name="again")
    assert own["metrics"] == pytest.approx(run.manifest["test_metrics"])


def test_a_conversation_is_cleaned(tiny_llama: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [{"question": f"<b>How {i}?</b>", "answer": f"so {i}"} for i in range(10)])
    run = train(tmp_path, tiny_llama, file, data__clean=["html"], train__max_steps=1, eval__generate_rows=0)
    assert run.generate("<b>How 1?</b>") == run.generate("How 1?")
    assert run.manifest["probe"]["example"]["messages"][0]["content"].startswith("How")


def test_spans_train_on_cleaned_contexts(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{**row, "context": row["context"].replace(" ", "\u00a0 ")} for row in spans(12)]
    file = write(tmp_path / "t.jsonl", rows)
    data = config.load(None, [f"data.train={file}", "data.clean=[whitespace]"]).data
    for example in load_dataset(data, None, 1).splits["train"]:
        start, answer = example.starts[0], example.references[0]
        assert example.text_pair is not None and "\u00a0" not in example.text_pair
        assert example.text_pair[start : start + len(answer)] == answer


# ------------------------------------------------------------------------------------- before and after


def test_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", [*ROWS, {"text": "<b>x</b>", "label": "b"}])
    other = [{**row, "text": row["text"].replace("room", "bath")} for row in ROWS[:2]]
    given = [
        f"data.train={file}",
        f"data.validation={write(tmp_path / 'v.jsonl', other)}",
        "data.clean=[html, {name: length, min: 3}]",
        "data.augment=[{name: swap, share: 0.4}]",
    ]
    found = before_after(config.load(None, given), 2)
    assert found["changed"] == 10 and found["dropped"] == {"length": 1} and len(found["rows"]) == 2
    one = found["rows"][1]
    assert one["where"] == f"{file}:2" and one["before"] == [["text", ROWS[1]["text"]]]
    assert one["after"] == [["text", "The  room 1 was fine"]] and one["copies"][0]["step"] == "swap"
    validation = before_after(config.load(None, given), 9, "validation")
    assert [row["where"] for row in validation["rows"]] == [f"{tmp_path / 'v.jsonl'}:2"]
    answer = verbs.call(capsys, "show", *given, "--before-after", "--rows", "30")
    assert answer.code == 0 and "The  room 1 was fine" in answer.out
    assert f"{file}:21  dropped: length: 1 characters, fewer than 3" in answer.out
    as_json = verbs.call(capsys, "show", *given, "--before-after", "--rows", "2", "--json")
    assert json.loads(as_json.out)["rows"] == found["rows"]
    with pytest.raises(TuneryError, match=r"nothing changes the rows → set data\.clean or"):
        before_after(config.load(None, given[:2]), 2)
