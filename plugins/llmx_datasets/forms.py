"""What a record says, in one normal form: a plain text or a list of messages, whichever way the record spells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from attrs import evolve

from llmx.errors import DataError
from llmx.protocols import Document, Message
from llmx_datasets import RecordForm
from llmx_datasets.chatml import MARK, chat_of
from llmx_datasets.turns import messages_of, pairs_of, string, tools_of, with_system

Record = Mapping[str, Any]

TEXTS = ("text", "content")
TURNS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
ASKED = {"alpaca": ("instruction", "output"), "query": ("query", "response")}
TURN_KEYS = tuple((form, key) for form, keys in TURNS.items() for key in keys)
PROMPTS = ("prompt", "query", "instruction", "question")
BESIDES = ("input", "system", "history", "tools", "functions", "chosen", "rejected", "rejected_response")
KNOWN = (*TEXTS, *sum((*TURNS.values(), *ASKED.values()), ()), *PROMPTS, *BESIDES)
"""Every field that a record of a usual form may have."""


UNKNOWN = (
    "set data.text_field, or data.messages_field, or data.prompt_field and data.response_field, to the fields found"
)


class Forms:
    """Makes documents of records by the options of a dataset."""

    def __init__(self, options: RecordForm) -> None:
        self.options = options
        self.read: dict[str, Callable[[Record, str], Document]] = {
            "text": self._text,
            "chatml": self._chatml,
            "messages": self._turns,
            "sharegpt": self._turns,
            "alpaca": partial(self._asked, *ASKED["alpaca"]),
            "query": partial(self._asked, *ASKED["query"]),
            "preference": self._preference,
        }
        self.form = _given_form(options)
        self.all_columns: Iterable[str] | None = None  # of a table of which only some are read

    def columns(self) -> set[str]:
        """Return the fields that may be read of a record."""
        given = self.options
        chosen = {given.text_field, given.messages_field, given.prompt_field, given.response_field} - {None}
        return chosen if given.text_field and self.form in ("text", "chatml") else {*KNOWN, *chosen}

    def __call__(self, record: Any, where: str) -> Document:
        """Return a record as a document that came from `where`; one of null alone has neither text nor messages.

        Raises:
            DataError: the record has none of the forms, or not the one that is asked for, or a field is no text.
        """
        if not isinstance(record, Mapping):
            kind = type(record).__name__
            raise DataError(f"{where}: a record must be an object with fields, not {kind}; mend the file")
        form = self.form or self._form(record)
        if form is None:
            return self._unknown(record, where)
        return self.read[form](record, where)

    def _form(self, record: Record) -> str | None:
        """Return the form of a record by its fields."""
        get = record.get
        if (get("rejected") is not None and get("chosen") is not None) or get("rejected_response") is not None:
            return "preference"
        if self.options.prompt_field is not None:
            return "alpaca" if "output" in record else "query"
        for form, key in TURN_KEYS:
            if get(key) is not None:
                return form
        for form, (asked, answered) in ASKED.items():
            if get(asked) is not None and answered in record:
                return form
        text = get("text")
        if text is None and (text := get("content")) is None:
            return None
        return "chatml" if isinstance(text, str) and text.lstrip().startswith(MARK) else "text"

    def _unknown(self, record: Record, where: str) -> Document:
        if any(key in record for key in (*TEXTS, *TURNS["messages"], *TURNS["sharegpt"])):
            return Document("", where)  # it is there, and null: an empty text
        raise self._lacks("no field is known to hold the text", UNKNOWN, record, where)

    def _lacks(self, what: str, advice: str, record: Record, where: str) -> DataError:
        """Return what to say of a record without a field.

        Args:
            advice: what to do, or the option that names the field.
        """
        found = ", ".join(map(str, self.all_columns or record)) or "none"
        if advice.endswith("_field"):
            advice = f"set data.{advice} to one of the fields found"
        form = f" for data.format = {self.options.format!r}" if self.options.format != "auto" else ""
        return DataError(f"{where}: {what}{form}; {advice}: {found}")

    # --- the forms --------------------------------------------------------------------------------------------------

    def _text(self, record: Record, where: str) -> Document:
        keys = TEXTS if self.options.text_field is None else (self.options.text_field,)
        key = _first(record, keys)
        if key is None:
            raise self._lacks(f"no field {keys[0]!r}", "text_field", record, where)
        return Document(string(record[key], key, where), where)

    def _chatml(self, record: Record, where: str) -> Document:
        return chat_of(self._text(record, where).text, where)

    def _turns(self, record: Record, where: str) -> Document:
        given = self.options.messages_field
        keys = sum(TURNS.values(), ()) if given is None else (given,)
        key = _first(record, keys)
        if key is None:
            raise self._lacks(f"no field {' or '.join(keys)}", "messages_field", record, where)
        if record[key] is None:
            return Document("", where)
        messages = with_system(record.get("system"), messages_of(record[key], key, where), where)
        return Document("", where, messages, tools_of(record, where))

    def _asked(self, asked: str, answered: str, record: Record, where: str) -> Document:
        before, prompt = self._before(record, [asked], where)
        key = self.options.response_field or answered
        if prompt is None or key not in record:
            name = key if prompt else self.options.prompt_field or asked
            option = "response_field" if prompt else "prompt_field"
            raise self._lacks(f"no field {name!r}", option, record, where)
        if record[key] is None:
            raise DataError(f"{where}: {key} is null: there is no answer to learn; take the record out")
        answer = Message("assistant", string(record[key], key, where))
        return Document("", where, (*before, prompt, answer), tools_of(record, where))

    def _before(self, record: Record, prompts: Iterable[str], where: str) -> tuple[tuple[Message, ...], Message | None]:
        """Return what comes before the last question, and that question."""
        before = pairs_of(record["history"], where) if record.get("history") else ()
        before = with_system(record.get("system"), before, where)
        key = _first(record, [self.options.prompt_field] if self.options.prompt_field else prompts)
        if key is None:
            return before, None
        text = string(record[key], key, where)
        more = string(record.get("input"), "input", where)
        return before, Message("user", f"{text}\n{more}" if text and more else text or more)

    def _preference(self, record: Record, where: str) -> Document:
        pair = record.get("chosen") is not None and record.get("rejected") is not None
        if record.get("rejected_response") is not None and not pair:
            whole = self.read[self._form({**record, "rejected_response": None}) or "query"](record, where)
            worse = (Message("assistant", string(record["rejected_response"], "rejected_response", where)),)
            if not whole.messages or whole.messages[-1].role != "assistant":
                raise DataError(f"{where}: rejected_response is given, and no answer that is better; mend it")
            return evolve(whole, rejected=worse)
        if "chosen" not in record or "rejected" not in record:
            raise self._lacks("no fields chosen and rejected", "found", record, where)
        prompt = self._prompt(record, where)
        better, worse = (self._side(record, key, prompt, where) for key in ("chosen", "rejected"))
        shared = next((n for n, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b), 10**9)
        shared = min(shared, len(better) - 1, len(worse) - 1)  # equal sides differ by nothing: the last turn stays
        uneven = None if len(better) == len(worse) else shared
        return Document("", where, better, tools_of(record, where), worse[shared:], uneven)

    def _prompt(self, record: Record, where: str) -> tuple[Message, ...]:
        """Return the turns before both sides of a preference pair, as far as they stand beside them."""
        keys = [self.options.prompt_field] if self.options.prompt_field else ["prompt"]
        keys += [self.options.messages_field] if self.options.messages_field else TURNS["sharegpt"]
        turns = next((key for key in keys if isinstance(record.get(key), list)), None)
        if turns is not None:
            return with_system(record.get("system"), messages_of(record[turns], turns, where), where)
        before, prompt = self._before(record, PROMPTS, where)
        return before if prompt is None else (*before, prompt)

    def _side(self, record: Record, key: str, prompt: tuple[Message, ...], where: str) -> tuple[Message, ...]:
        given = record[key]
        if isinstance(given, list | Mapping):
            said = messages_of(given if isinstance(given, list) else [given], key, where)
        else:
            said = (Message("assistant", string(given, key, where)),)
        if said and said[0].role != "assistant":
            return with_system(record.get("system"), said, where)  # the whole chat, its beginning told again
        if not prompt or not said:
            lack = "no prompt is known to go before it" if said else "it has no turn"
            raise DataError(f"{where}: {key}: {lack}; set data.prompt_field to the field with the question")
        return (*prompt, *said)


def _given_form(options: RecordForm) -> str | None:
    """Return the form that the options ask for; None where each record is looked at."""
    if options.format != "auto":
        return options.format
    fields = {"text": options.text_field, "messages": options.messages_field, "query": options.response_field}
    return next((form for form, name in fields.items() if name is not None), None)


def _first(record: Record, keys: Any) -> str | None:
    """Return the first key that has a value, or else that is there and null."""
    null = None
    for key in keys:
        if record.get(key) is not None:
            return key
        if null is None and key in record:
            null = key
    return null


def has_content(document: Document) -> bool:
    """Return whether a document says anything."""
    if document.text and not document.text.isspace():
        return True
    return any(
        each.tool_calls or (each.content and not each.content.isspace()) or each.reasoning for each in document.messages
    )


def without_nulls(value: Any) -> Any:
    """Return a value of a table without fields of null: a column gives every record the fields of all."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
