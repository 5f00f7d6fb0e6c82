"""The sandbox of foreign templates: whatever they do ends soon, in little memory, with one clear line."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from llmx.errors import DataError
from llmx.protocols import Message
from llmx.testing.chats import ChatTokenizer
from llmx_templates import JinjaOptions
from llmx_templates.jinja import JinjaTemplate

CHAT = (Message("user", "Hi"), Message("assistant", "Ho"))


def again(body: str, start: str = "'a'") -> str:
    """Return a template that puts a value into itself sixty times."""
    return f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set ns.x = {body} %}}{{% endfor %}}"


TWICE = "{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
BOMBS = {
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that leave all out": "{% for i in range(999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "much text in a loop": "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "text times a number": "{{ 'a' * 10**10 }}",
    "a list times a number": "{{ [1] * 10**9 }}",
    "a power": "{{ 10**10**10 }}",
    "a number that grows": again("ns.x * ns.x", "3"),
    "text that doubles": again("ns.x ~ ns.x"),
    "text that doubles by +": again("ns.x + ns.x"),
    "text that doubles by join": again("[ns.x, ns.x]|join"),
    "text that doubles by join's method": again("ns.x.join(['b'] * 3)"),
    "a block that doubles": again("1")
    + "{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "a list in a list": again("[ns.x, ns.x]", "[1]") + "{{ ns.x }}",
    "lists compared": "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "a mapping in a mapping": again("{1: ns.x, 2: ns.x}", "{}") + "{{ ns.x|tojson }}",
    "dict in dict": again("dict(a=ns.x, b=ns.x)", "1") + "{{ ns.x|string }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": "{% macro f(n) %}" + TWICE + "{% endmacro %}{{ f(60) }}",
    "a loop that calls itself": "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "a block that calls itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "replace": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "the filter replace": "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}",
    "replacing nothing": "{% set x = 'a' * 1000000 %}{{ x|replace('', x) }}",
    "split": "{% set x = 'a ' * 1000000 %}{{ x.split()|length }}",
    "splitlines": "{% set x = 'a\\n' * 1000000 %}{{ x.splitlines()|length }}",
    "letters": "{{ ('a' * 3000000)|list|length }}",
    "strip": "{% set x = 'a' * 200000 %}{{ x.strip(x ~ 'b') }}",
    "trim": "{% set x = 'a' * 200000 %}{{ x|trim(x) }}",
    "sorted again and again": "{% set x = ['b' * 100000] * 50 %}{% for i in range(999) %}{{ x|sort }}{% endfor %}",
    "looked for again and again": "{% set x = 'a' * 3000000 %}{% for i in range(99999) %}{{ 'b' in x }}{% endfor %}",
    "cut again and again": "{% set x = 'a' * 3000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "joined by much": "{{ range(99999)|map('string')|join('x' * 1000) }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width of format": "{{ '{:1000000000}'.format(1) }}",
    "a width of the filter": "{{ '%1000000000d'|format(1) }}",
    "center": "{{ 'a'.center(10**10) }}",
    "the filter center": "{{ 'a'|center(10**10) }}",
    "zeros": "{{ 'a'.zfill(10**9) }}",
    "bytes": "{{ (1).to_bytes(10**9) }}",
    "indent": "{{ 'a\n'|indent(10**9) }}",
    "indented JSON": "{{ [1]|tojson(indent=10**9) }}",
    "deep JSON": "{% set ns = namespace(x=1) %}{% for i in range(400) %}{% set ns.x = [ns.x, 1] %}{% endfor %}"
    "{% for i in range(99999) %}{% set y = ns.x|tojson(indent=16) %}{% endfor %}",
    "places": "{{ 3.5|round(10**9) }}",
    "lists summed": "{{ ([[1]] * 10000)|sum(start=[]) }}",
    "text made up": "{{ lipsum(10**9) }}",
    "a date": "{{ strftime_now('%1000000000Y') }}",
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a long template": "a" * 2_000_000,
}
ESCAPES = {
    "a class": "{{ ''.__class__ }}",
    "a class in brackets": "{{ messages[0]['__class__'] }}",
    "all classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a filter's attribute": "{{ messages|map(attribute='__class__')|list }}",
    "a test's attribute": "{{ messages|selectattr('__class__')|list }}",
    "the filter attr": "{{ messages|attr('__class__') }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "a namespace": "{{ namespace.__init__.__globals__ }}",
    "the template": "{{ self.__init__.__globals__ }}",
    "a function": "{{ range.__self__ }}",
    "a macro": "{% macro f() %}{% endmacro %}{{ f.__call__ }}",
    "a loop": "{% for m in messages %}{{ loop.__init__ }}{% endfor %}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "a change": "{{ messages.append(1) }}",
    "a change of a mapping": "{{ messages[0].update(x=1) }}",
    "a file": "{% include '/etc/hostname' %}",
    "an import": "{% import '/etc/hostname' as x %}",
}
BROKEN = {
    "not closed": ("{% if x %}", "line 1: Unexpected end of template"),
    "an unknown filter": ("a\n{{ 1|nope }}", "line 2: No filter named 'nope'"),
    "an unknown name": ("{{ nope.x }}", "'nope' is undefined"),
    "its own words": ("{{ raise_exception('Only questions') }}", "Only questions"),
    "a type": ("{{ 1 + 'a' }}", "TypeError"),
}


def write(source: str, folder: Path, chat: tuple[Message, ...] = CHAT) -> str:
    """Return the text of a chat by a template of a file."""
    path = folder / "chat_template.jinja"
    path.write_text(source, encoding="utf-8")
    template = JinjaTemplate(JinjaOptions(path=str(path)), ChatTokenizer())
    return "".join(piece.text for piece in template.pieces(chat))


@pytest.mark.parametrize("what", BOMBS)
def test_greed_ends_soon(what: str, tmp_path: Path) -> None:
    """One line, in less than 2 s of a processor, also in a thread that is not the main one."""
    caught: list[BaseException] = []
    seconds: list[float] = []

    def work() -> None:
        began = time.thread_time()
        try:
            write(BOMBS[what], tmp_path)
        except DataError as error:
            caught.append(error)
        seconds.append(time.thread_time() - began)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (error,) = caught
    assert len(str(error).splitlines()) == 1
    assert f"template {tmp_path}/chat_template.jinja: " in str(error)
    assert seconds[0] < 2


@pytest.mark.parametrize("what", ["text that doubles", "split", "letters", "replace"])
def test_greed_takes_little_memory(what: str, tmp_path: Path) -> None:
    """The most that Python holds meanwhile is under 200 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            write(BOMBS[what], tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", ESCAPES)
def test_nothing_of_python_is_reached(what: str, tmp_path: Path) -> None:
    """An error, and not an empty text."""
    with pytest.raises(DataError) as caught:
        write(ESCAPES[what], tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_template_says_where(what: str, tmp_path: Path) -> None:
    """Jinja's words, with the file."""
    source, message = BROKEN[what]
    with pytest.raises(DataError) as caught:
        write(source, tmp_path)
    assert message in str(caught.value)
    assert "chat_template.jinja" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content.upper().replace('H', 'J') }}", "JI"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "user"),
        ("{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}", "1Ho"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ') }}", "Hi"),
        ("{{ messages[::-1][0].content ~ '%s-%d' % ('a', 3) }}", "Hoa-3"),
        ("{{ {'b': 1, 'a': [1, 2.5, none, true]}|tojson }}", '{"b": 1, "a": [1, 2.5, null, true]}'),
        ("{{ {'b': 1, 'a': 2}|dictsort }}{{ [3, 1]|sort }}{{ (1, 'x') }}", "[('a', 2), ('b', 1)][1, 3](1, 'x')"),
        ("{% macro f(x, y='!') %}{{ x|trim }}{{ y }}{% endmacro %}{{ f('  a ') }}", "a!"),
        ("{{ messages[5].content }}{{ nope }}{{ nope is defined }}", "False"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=Hi;"),
        ("{{ 'a\nb'|indent(2) }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ -7 % 3 }}", "a\n  b3322"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
    ],
)
def test_ordinary_templates_are_not_disturbed(source: str, text: str, tmp_path: Path) -> None:
    """What published templates do gives what Jinja gives."""
    if "messages[5].content" in source:
        source = source.replace("messages[5].content", "messages[5]")
    assert write(source, tmp_path) == text


def test_a_long_chat_has_room(tmp_path: Path) -> None:
    """The budget grows with the chat: a megabyte, or a thousand messages, are no bomb."""
    source = (
        "{% for m in messages %}{{ m.role + ': ' + (m.content|trim).split('</think>')[-1].strip() + '\n' }}{% endfor %}"
    )
    text = "some words on lines\n" * 50_000
    assert len(write(source, tmp_path, (Message("user", text),))) > 999_000
    many = tuple(Message(("user", "assistant")[number % 2], f"number {number}") for number in range(60))
    assert write(source, tmp_path, many).count("\n") == 60
