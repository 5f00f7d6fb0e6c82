"""Every form of record, and the one normal form it becomes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmx.errors import DataError
from llmx.protocols import Document, Message
from llmx_datasets import RecordForm, forms
from llmx_datasets.forms import Forms, has_content, without_nulls

SYSTEM, USER, ANSWER = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
WORSE = Message("assistant", "w")
OPENAI = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"name": "f", "arguments": {"x": 1}}
CHATML = "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


def read(record, **options):
    """Return a record as a document."""
    return Forms(RecordForm(**options))(record, "here")


def chat(*messages, **more):
    """Return the document of a chat."""
    return Document("", "here", messages, **more)


def text(content):
    """Return the document of a plain text."""
    return Document(content, "here")


FORMS = [
    # plain text
    ({"id": 1, "text": "t"}, text("t")),
    ({"content": "c"}, text("c")),
    ({"text": None, "content": "c"}, text("c")),
    ({"text": None}, text("")),
    # OpenAI
    ({"messages": OPENAI}, chat(USER, ANSWER)),
    ({"messages": json.dumps(OPENAI)}, chat(USER, ANSWER)),
    ({"messages": OPENAI, "text": "the same, rendered"}, chat(USER, ANSWER)),
    ({"messages": OPENAI, "system": "s"}, chat(SYSTEM, USER, ANSWER)),
    ({"messages": OPENAI, "tools": [TOOL]}, chat(USER, ANSWER, tools=(TOOL,))),
    ({"messages": OPENAI, "tools": json.dumps([TOOL])}, chat(USER, ANSWER, tools=(TOOL,))),
    ({"messages": OPENAI, "tools": [json.dumps(TOOL)]}, chat(USER, ANSWER, tools=(TOOL,))),
    ({"messages": OPENAI, "tools": None}, chat(USER, ANSWER)),
    ({"messages": OPENAI, "functions": [TOOL["function"]]}, chat(USER, ANSWER, tools=(TOOL,))),
    ({"messages": [{"role": "developer", "content": "s"}]}, chat(SYSTEM)),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}]}]},
        chat(Message("user", "uv")),
    ),
    # ShareGPT
    ({"conversations": SHAREGPT}, chat(USER, ANSWER)),
    ({"conversation": OPENAI}, chat(USER, ANSWER)),
    ({"conversations": [{"from": "system", "value": "s"}, *SHAREGPT], "system": "s"}, chat(SYSTEM, USER, ANSWER)),
    ({"conversations": SHAREGPT, "system": "s", "id": 7}, chat(SYSTEM, USER, ANSWER)),
    # Alpaca
    ({"instruction": "u", "input": "", "output": "a"}, chat(USER, ANSWER)),
    ({"instruction": "u", "output": "a", "text": "Below is an instruction"}, chat(USER, ANSWER)),
    ({"instruction": "u", "input": "v", "output": "a"}, chat(Message("user", "u\nv"), ANSWER)),
    (
        {"instruction": "u", "output": "a", "system": "s", "history": [["q", "r"]]},
        chat(SYSTEM, Message("user", "q"), Message("assistant", "r"), USER, ANSWER),
    ),
    # query and response
    ({"query": "u", "response": "a"}, chat(USER, ANSWER)),
    ({"query": "u", "response": "a", "system": "", "history": None}, chat(USER, ANSWER)),
    (
        {"query": "u", "response": "a", "system": "s", "history": [["q", "r"]]},
        chat(SYSTEM, Message("user", "q"), Message("assistant", "r"), USER, ANSWER),
    ),
    # ChatML in a record
    ({"text": CHATML}, chat(USER, ANSWER)),
    # preference pairs
    ({"prompt": "u", "chosen": "a", "rejected": "w"}, chat(USER, ANSWER, rejected=(WORSE,))),
    ({"instruction": "u", "input": "", "chosen": "a", "rejected": "w"}, chat(USER, ANSWER, rejected=(WORSE,))),
    ({"query": "u", "chosen": "a", "rejected": "w", "system": "s"}, chat(SYSTEM, USER, ANSWER, rejected=(WORSE,))),
    ({"prompt": "u", "chosen": OPENAI, "rejected": [OPENAI[0], {"role": "assistant", "content": "w"}]},
     chat(USER, ANSWER, rejected=(WORSE,))),
    ({"prompt": OPENAI[:1], "chosen": OPENAI[1:], "rejected": [{"role": "assistant", "content": "w"}]},
     chat(USER, ANSWER, rejected=(WORSE,))),
    ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "w"}},
     chat(USER, ANSWER, rejected=(WORSE,))),
    ({"chosen": OPENAI, "rejected": OPENAI}, chat(USER, ANSWER, rejected=(ANSWER,))),
    ({"messages": OPENAI, "rejected_response": "w"}, chat(USER, ANSWER, rejected=(WORSE,))),
    ({"query": "u", "response": "a", "rejected_response": "w"}, chat(USER, ANSWER, rejected=(WORSE,))),
    ({"query": "u", "chosen": "a", "rejected": "w", "rejected_response": "x"}, chat(USER, ANSWER, rejected=(WORSE,))),
]  # fmt: skip


@pytest.mark.parametrize(("record", "document"), FORMS)
def test_a_record_is_recognised_by_its_fields(record, document):
    """Each usual form becomes the same normal form."""
    assert read(record) == document


ASSISTANTS = [
    ({"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]},
     Message("assistant", "", tool_calls=(CALL,))),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}, {"name": "g"}]},
     Message("assistant", "", tool_calls=(CALL, {"name": "g", "arguments": {}}))),
    ({"role": "assistant", "content": "a", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
     Message("assistant", "a", tool_calls=(CALL,))),
    ({"from": "function_call", "value": json.dumps(CALL)}, Message("assistant", "", tool_calls=(CALL,))),
    ({"role": "tool_call", "content": json.dumps([CALL, CALL])}, Message("assistant", "", tool_calls=(CALL, CALL))),
    ({"role": "assistant", "content": "a", "reasoning_content": "r"}, Message("assistant", "a", reasoning="r")),
    ({"role": "assistant", "content": "a", "thinking": "r"}, Message("assistant", "a", reasoning="r")),
    ({"role": "assistant", "content": "<think>r</think>a"}, Message("assistant", "<think>r</think>a")),
    ({"role": "assistant", "content": "a", "loss": True}, Message("assistant", "a", loss=True)),
    ({"role": "assistant", "content": "a", "weight": 0}, Message("assistant", "a", loss=False)),
    ({"from": "gpt", "value": "a", "train": 1.0}, Message("assistant", "a", loss=True)),
    ({"role": "user", "content": "u", "loss": None}, USER),
    ({"role": "tool", "content": "out", "tool_call_id": "1"}, Message("tool", "out")),
    ({"from": "observation", "value": "out"}, Message("tool", "out")),
    ({"role": "function", "name": "f", "content": "out"}, Message("tool", "out")),
    ({"role": "assistant", "content": "a", "tool_calls": []}, ANSWER),
]  # fmt: skip


@pytest.mark.parametrize(("turn", "message"), ASSISTANTS)
def test_a_turn_keeps_calls_reasoning_and_loss(turn, message):
    """Calls are told apart from content, their arguments are objects, and a flag of a turn is kept."""
    assert read({"messages": [turn]}).messages == (message,)


def test_calls_at_once_are_one_turn():
    """Turns of calls that follow each other belong to one answer; others stay apart."""
    call = {"from": "function_call", "value": json.dumps(CALL)}
    messages = read({"conversations": [SHAREGPT[0], call, call, SHAREGPT[1]]}).messages
    assert messages == (USER, Message("assistant", "", tool_calls=(CALL, CALL)), ANSWER)


OPTIONS = [
    ({"text": "t", "messages": OPENAI}, {"text_field": "text"}, text("t")),
    ({"text": "t", "messages": OPENAI}, {"format": "text"}, text("t")),
    ({"text": CHATML}, {"format": "text"}, text(CHATML)),
    ({"body": CHATML}, {"format": "chatml", "text_field": "body"}, chat(USER, ANSWER)),
    ({"dialog": SHAREGPT}, {"messages_field": "dialog"}, chat(USER, ANSWER)),
    ({"dialog": None}, {"messages_field": "dialog"}, text("")),
    ({"question": "u", "answer": "a"}, {"prompt_field": "question", "response_field": "answer"}, chat(USER, ANSWER)),
    ({"prompt": "u", "response": "a", "text": "t"}, {"prompt_field": "prompt"}, chat(USER, ANSWER)),
    ({"q": "u", "input": "v", "output": "a"}, {"prompt_field": "q"}, chat(Message("user", "u\nv"), ANSWER)),
    ({"q": "u", "chosen": "a", "rejected": "w"}, {"prompt_field": "q"}, chat(USER, ANSWER, rejected=(WORSE,))),
    ({"instruction": "u", "output": "a", "query": "q", "response": "r"}, {"format": "query"},
     chat(Message("user", "q"), Message("assistant", "r"))),
    ({"messages": OPENAI, "conversations": []}, {"format": "messages"}, chat(USER, ANSWER)),
    ({"a": 1, "chosen": OPENAI, "rejected": [*OPENAI[:1], {"role": "assistant", "content": "w"}]},
     {"format": "preference"}, chat(USER, ANSWER, rejected=(WORSE,))),
]  # fmt: skip


@pytest.mark.parametrize(("record", "options", "document"), OPTIONS)
def test_options_choose_the_form_and_the_fields(record, options, document):
    """What is asked for goes before what the record looks like."""
    assert read(record, **options) == document


@pytest.mark.parametrize("name", ["messages_field", "prompt_field", "response_field"])
def test_text_field_goes_with_no_other(name):
    """Plain text has no turns: both at once are refused, not one of them left out in silence."""
    with pytest.raises(ValueError, match=f"'{name}' cannot be set beside text_field, which reads plain text"):
        read({"text": "t", "q": "u"}, text_field="text", **{name: "q"})


def turn(**fields):
    """Return a record of one turn."""
    return {"messages": [fields]}


BROKEN = [
    ([1], {}, r"must be an object with fields, not list"),
    ({"id": 1}, {}, r"no field is known to hold the text; set data\.text_field, or .*: id$"),
    ({}, {}, r"no field is known.*: none$"),
    ({"text": 3}, {}, r"text must be text, not int"),
    ({"text": "\ud800"}, {}, r"text holds half a surrogate pair, \\ud800"),
    ({"messages": "hi"}, {}, r"messages must be a list of messages, not text"),
    ({"messages": '[{"role"'}, {}, r"messages must be JSON"),
    ({"messages": {"role": "user"}}, {}, r"messages must be a list of messages"),
    (turn(role="robot", content="x"), {}, r"messages\[0\] has the role 'robot', which none knows; use one of user, "),
    (turn(content="x"), {}, r"messages\[0\] has the role None"),
    (turn(role=["user"], content="x"), {}, r"messages\[0\] has the role \['user'\]"),
    (turn(role="user", content={"a": 1}), {}, r"messages\[0\]\.content must be text, not dict"),
    (turn(role="user", content=[{"type": "image_url"}]), {}, r"a part of type 'image_url'; only text"),
    (turn(role="user", content="x", loss="no"), {}, r"messages\[0\]\.loss must be true or false, 1 or 0, not 'no'"),
    (turn(role="user", content="x", weight=0.5), {}, r"messages\[0\]\.weight must be true or false"),
    (turn(role="assistant", tool_calls=[{"function": {"arguments": "{}"}}]), {}, r"calls a function that has no name"),
    (turn(role="assistant", tool_calls=[{"name": "f", "arguments": "{"}]), {}, r"the arguments of f must be JSON: "),
    (
        turn(role="assistant", tool_calls=[{"name": "f", "arguments": "[1]"}]),
        {},
        r"the arguments of f must be an object",
    ),
    (turn(role="assistant", tool_calls=[{"name": "f", "arguments": {"x": "\ud800"}}]), {}, r"half a surrogate pair"),
    (turn(role="function_call", content="f(x)"), {}, r"messages\[0\] \(a call\) must be JSON"),
    ({"messages": OPENAI, "tools": "f"}, {}, r"tools must be JSON"),
    ({"messages": OPENAI, "tools": [1]}, {}, r"tools must be a list of objects"),
    ({"messages": [{"role": "system", "content": "t"}], "system": "s"}, {}, r"a field system and another system turn"),
    ({"instruction": "u", "output": None}, {}, r"output is null: there is no answer"),
    ({"query": "u", "response": "a", "history": [["q"]]}, {}, r"history must be a list of \[question, answer\]"),
    ({"query": "u", "response": "a", "history": ["qa"]}, {}, r"history must be a list"),
    ({"chosen": "a", "rejected": "w"}, {}, r"chosen: no prompt is known .*data\.prompt_field"),
    ({"prompt": "u", "chosen": [], "rejected": "w"}, {}, r"chosen: it has no turn"),
    ({"text": "t", "rejected_response": "w"}, {}, r"rejected_response is given, and no answer that is better"),
    (
        {"text": "t"},
        {"format": "messages"},
        r"no field messages or conv.* for data\.format = 'messages'; set data\.messages_field to one .*: text$",
    ),
    (
        {"text": "t"},
        {"format": "preference"},
        r"no fields chosen and rejected for data\.format = 'preference'; .*: text$",
    ),
    (
        {"text": "t"},
        {"format": "alpaca"},
        r"no field 'instruction' for data\.format = .*; set data\.prompt_field to one",
    ),
    ({"text": "t"}, {"prompt_field": "q"}, r"no field 'q'; set data\.prompt_field to one of the fields found: text$"),
    ({"q": "t"}, {"prompt_field": "q", "response_field": "r"}, r"no field 'r'; set data\.response_field to one .*: q$"),
    ({"q": "t"}, {"response_field": "r"}, r"no field 'query'; set data\.prompt_field to one"),
    ({"q": "t", "a": "s"}, {}, r"data\.text_field, or .*data\.prompt_field and data\.response_field, .* found: q, a$"),
    ({"text": "t"}, {"format": "chatml"}, r"ChatML with 't' where a whole turn must stand"),
]


@pytest.mark.parametrize(("record", "options", "pattern"), BROKEN)
def test_a_broken_record_is_said(record, options, pattern):
    """The message has one line, begins with the place, and says what is wrong."""
    with pytest.raises(DataError, match=pattern) as caught:
        read(record, **options)
    assert str(caught.value).startswith("here: ")
    assert "\n" not in str(caught.value)


KEYS = st.sampled_from([*forms.KNOWN, "role", "value", "from", "loss"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.text('a{["<', max_size=4) | st.sampled_from(["user", "gpt"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=600)
@given(st.dictionaries(KEYS, VALUES | st.just(OPENAI) | st.just("u"), max_size=5), st.sampled_from(
    ["auto", "text", "messages", "sharegpt", "alpaca", "query", "chatml", "preference"]))  # fmt: skip
def test_whatever_a_record_holds_it_is_a_document_or_an_error(record, form):
    """No record, however strange, ends in another error; a document is a text or a chat, of texts alone."""
    try:
        document = read(record, format=form)
    except DataError:
        return
    assert not (document.text and document.messages)
    messages = document.messages + document.rejected
    assert {each.role for each in messages} <= {"system", "user", "assistant", "tool"}
    assert all(type(each.content) is str and type(each.reasoning) is str for each in messages)
    assert all(each.loss is None or type(each.loss) is bool for each in messages)
    assert document.messages or not document.rejected


def test_a_document_says_something_or_not():
    """White space, no turn and turns without words say nothing; a call and a thought do."""
    assert all(
        has_content(each) for each in (text(" a"), chat(USER), chat(Message("assistant", "", tool_calls=(CALL,))))
    )
    assert has_content(chat(Message("assistant", "", reasoning="r")))
    assert not any(has_content(each) for each in (text(" \n"), chat(), chat(Message("user", " "))))


def test_null_fields_of_a_table_are_left_out():
    """What other rows made of a column is no field of this row; false, zero and empty lists stay."""
    value = {"a": None, "b": [{"c": None, "d": 0}, None], "e": [], "f": False}
    assert without_nulls(value) == {"b": [{"d": 0}, None], "e": [], "f": False}
