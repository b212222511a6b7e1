"""Formats: a common set of checks for everything the registry finds, then what is special to each."""

from __future__ import annotations

from typing import Any

import pytest

from tunery import registry
from tunery.data.columns import resolve, sniff
from tunery.errors import ConfigError, DataError
from tunery.protocols import Example, Format, Row

FORMATS = registry.names("format")
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def sample(column: str) -> Any:
    """A right value for a column of any format."""
    special = {"messages": TURNS, "history": [["q", "a"]], "answers": ["x"], "references": ["x"], "contains": ["x"]}
    special |= {"answer_start": 0, "words": ["some", "words"], "tags": ["O", "B-X"]}
    return special.get(column, f"some {column}")


def make(name: str, need_target: bool = True, **values: Any) -> Example:
    chosen: Format = registry.get("format", name)()
    return chosen.example(Row(values, "data.jsonl", 7), need_target)


def full(name: str) -> dict[str, Any]:
    chosen = registry.get("format", name)
    return {column: sample(column) for column in chosen.columns}


# ------------------------------------------------------------------------------------- every format


@pytest.mark.parametrize("name", FORMATS)
def test_declarations(name: str) -> None:
    chosen = registry.get("format", name)
    assert chosen.columns
    assert chosen.summary
    assert chosen.__doc__
    assert chosen.name == name
    assert set(chosen.targets) <= set(chosen.columns)
    assert not set(chosen.columns) & set(chosen.optional)
    assert isinstance(chosen.task, str)


@pytest.mark.parametrize("name", FORMATS)
def test_its_own_columns_are_recognised(name: str) -> None:
    chosen = registry.get("format", name)
    assert sniff(chosen.columns)[0] == name
    assert chosen().matches([]) == 0.0
    assert 0 < chosen().matches([*chosen.columns, "id", "source"]) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_example_has_place_and_input(name: str) -> None:
    example = make(name, **full(name))
    assert example.where == "data.jsonl:7"
    assert example.input_text
    assert [bool(example.messages), bool(example.text), bool(example.words)].count(True) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_rows_to_predict_do_without_the_answer(name: str) -> None:
    chosen = registry.get("format", name)
    values = {column: value for column, value in full(name).items() if column not in chosen.targets}
    with_answer, without = make(name, **full(name)), make(name, need_target=False, **values)
    assert without.input_text == with_answer.input_text
    if chosen.targets:
        with pytest.raises(DataError):
            make(name, **values)


@pytest.mark.parametrize("value", [None, "", " \n\u200b", 3.5, {"a": 1}, True, float("nan")])
@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).columns])
def test_wrong_cells_are_data_errors(name: str, column: str, value: Any) -> None:
    if column == "label" and value in (3.5, True):
        return
    with pytest.raises(DataError) as caught:
        make(name, **{**full(name), column: value})
    assert caught.value.where == "data.jsonl:7"
    assert column in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize("value", [3.5, {"a": 1}, ["x", 3], True])
@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).optional])
def test_wrong_optional_cells_are_data_errors(name: str, column: str, value: Any) -> None:
    with pytest.raises(DataError, match=column):
        make(name, **{**full(name), column: value})


@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FORMATS for c in registry.get("format", n).optional])
def test_empty_optional_cells_are_as_if_absent(name: str, column: str) -> None:
    plain = make(name, **full(name))
    assert make(name, **{**full(name), column: None}) == plain
    assert make(name, **{**full(name), column: ""}) == plain


# ----------------------------------------------------------------------------------------- each format


def test_the_message_for_a_wrong_type_names_value_and_need() -> None:
    with pytest.raises(DataError) as caught:
        make("qa", question="How much?", answer=3.5)
    assert caught.value.problem == "column 'answer' is a number (3.5), text is needed"
    assert '"3.5"' in caught.value.hint


def test_a_missing_column_names_a_near_one() -> None:
    with pytest.raises(DataError, match="'answer' is missing") as caught:
        make("qa", question="How much?", anwser="5")
    assert "did you mean 'anwser'" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("pos", "pos"),
        (" pos ", " pos "),
        (3, "3"),
        (3.0, "3.0"),
        (-0.25, "-0.25"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (["a", "b", "a"], ("a", "b")),
        ([1, True], ("1", "true")),
        ([], ()),
        ('["a", "b"]', ("a", "b")),
        ("[1]", "[1]"),
    ],
)
def test_labels_are_text(value: Any, label: Any) -> None:
    assert make("labels", text="x", label=value).label == label


def test_label_lists_need_labels() -> None:
    for value in (["a", None], ["a", " "], [["a"]], float("inf")):
        with pytest.raises(DataError, match="label"):
            make("labels", text="x", label=value)


def test_labels_of_a_pair() -> None:
    example = make("labels", text="a", text_pair="b", label="same")
    assert (example.text, example.text_pair, example.input_text) == ("a", "b", "a\nb")


def test_qa_with_context_answers_and_facts() -> None:
    example = make("qa", question="Q?", answer="A", answers=["B", "A"], contains="a", context="C", system="S")
    assert [(m.role, m.content) for m in example.messages] == [
        ("system", "S"),
        ("user", "C\n\nQ?"),
        ("assistant", "A"),
    ]
    assert example.references == ("A", "B")
    assert example.contains == ("a",)
    assert make("qa", question="Q?", answer="A", contains='["a", "b"]').contains == ("a", "b")


def test_pairs_references() -> None:
    assert make("pairs", prompt="P", response="R").references == ("R",)
    assert make("pairs", prompt="P", response="R", references=["R", "T"]).references == ("R", "T")


def test_alpaca_input_and_history() -> None:
    example = make("alpaca", instruction="I", input="X", output="O", system="S", history=[["q", "a"]])
    assert [m.content for m in example.messages] == ["S", "q", "a", "I\n\nX", "O"]
    assert make("alpaca", instruction="I", input=" ", output="O").messages[0].content == "I"
    for history in ([["q"]], ["q"], [["q", 1]], [["q", " "]]):
        with pytest.raises(DataError, match="turn 1"):
            make("alpaca", instruction="I", output="O", history=history)


def chat(*turns: tuple[str, str], need_target: bool = True) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return make("chat", need_target, messages=messages)


def test_chat_good() -> None:
    assert chat(("system", "S"), ("user", "a"), ("assistant", "b")).references == ("b",)
    assert chat(("user", "a"), need_target=False).messages[-1].role == "user"
    text = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
    assert make("chat", messages=text).messages == make("chat", messages=TURNS).messages  # a CSV cell


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([("user", "a")], "ends without an answer"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "message 2 is of the user"),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c")], "message 3 is of the assistant"),
        ([("assistant", "a"), ("user", "b"), ("assistant", "c")], "message 1 is of the assistant"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "message 2 is of the system"),
        ([("system", "a")], "no user message"),
        ([("tool", "a")], "role 'tool'"),
        ([("user", " "), ("assistant", "c")], "message 1: content is blank"),
        ([], "no user message"),
    ],
)
def test_chat_bad(turns: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        chat(*turns)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ("hello", "an object is needed"),
        ({"role": "user"}, "lacks content"),
        ({"from": "human", "value": "x"}, "lacks role"),
        ({"role": "user", "content": ["x"]}, "content is a list"),
        ({"role": ["user"], "content": "x"}, "role"),
    ],
)
def test_chat_bad_messages(turn: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        make("chat", messages=[turn, TURNS[1]])


# -------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("columns", "name", "rename"),
    [
        (["text", "label", "fine_label"], "labels", {}),
        (["text", "intent"], "labels", {"intent": "label"}),
        (["Review", "Stars"], "labels", {"Review": "text", "Stars": "label"}),
        (["文本", "标签"], "labels", {"文本": "text", "标签": "label"}),
        (["问题", "答案"], "qa", {"问题": "question", "答案": "answer"}),
        (["指令", "输入", "输出"], "alpaca", {"指令": "instruction", "输入": "input", "输出": "output"}),
        (["sentence1", "sentence2", "label"], "labels", {"sentence1": "text", "sentence2": "text_pair"}),
        (["instruction", "input", "output"], "alpaca", {}),
        (["input", "output"], "pairs", {"input": "prompt", "output": "response"}),
        (["content"], "text", {"content": "text"}),
        (["text", "id", "url"], "text", {}),
        (["messages", "text"], "chat", {}),
    ],
)
def test_sniff(columns: list[str], name: str, rename: dict[str, str]) -> None:
    found = resolve(columns, {})
    assert (found.format, found.rename) == (name, rename)
    for column in rename:
        assert any(repr(column) in note for note in found.notes)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["text", "category", "sentiment"], "data.columns.label=category"),
        (["text", "lable"], "data.columns.label=lable"),
        (["question", "answers"], "data.columns"),
        (["id", "content"], "data.columns.text=content"),
        (["x", "y"], "data.columns"),
        (["question", "answer", "prompt", "response"], "data.format="),
    ],
)
def test_what_is_not_clear_is_asked(columns: list[str], hint: str) -> None:
    with pytest.raises(DataError) as caught:
        sniff(columns)
    assert hint in caught.value.hint


def test_no_format_fits_tells_columns_and_needs() -> None:
    with pytest.raises(DataError) as caught:
        sniff(["x", "y"])
    assert "'x', 'y'" in caught.value.problem
    for name in FORMATS:
        assert f"{name}: " in caught.value.problem


def test_a_mapping_wins() -> None:
    found = resolve(["text", "summary", "label"], {"text": "summary"})
    assert (found.format, found.rename) == ("labels", {"summary": "text"})
    assert resolve(["a", "b"], {"question": "a", "answer": "b"}).format == "qa"


def test_mapping_errors() -> None:
    with pytest.raises(ConfigError, match="no format has a column 'lable'"):
        sniff(["text", "label"], {"lable": "label"})
    with pytest.raises(DataError, match="'intt'") as caught:
        sniff(["text", "intent"], {"label": "intt"})
    assert "'intent'" in caught.value.hint
    assert sniff(["text", "label"], {"label": "intent"})[0] == "labels"  # this split has the usual name


def test_a_named_format_and_its_missing_column() -> None:
    with pytest.raises(DataError, match="'label'") as caught:
        resolve(["text", "y"], {}, name="labels", where="f.csv:2")
    assert caught.value.where == "f.csv:2"
    assert "data.columns.label=NAME" in caught.value.hint
    with pytest.raises(DataError, match="is the column 'labe' the label") as caught:
        resolve(["text", "labe"], {}, name="labels")
    assert "data.columns.label=labe" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown format"):
        resolve(["text"], {}, name="lables")
    assert resolve(["question"], {}, name="qa", need_target=False).format == "qa"
    assert resolve(["instruction"], {}, need_target=False).format == "alpaca"


def test_another_task_is_named_where_the_format_is_not_the_tasks() -> None:
    with pytest.raises(DataError, match="format qa") as caught:
        resolve(["question", "answer"], {}, allowed=["text"])
    assert "task=instruct" in caught.value.hint
