"""Whether what an object marks as hooks are hooks: the words for what pluggy would find as well."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from llmx import hookspecs

MARK = "llmx_impl"


def wrong_hooks(listener: object) -> Iterator[tuple[str, Any]]:
    """Yield a line, and the function it is about, for each marked function that is no hook or asks for too much."""
    specs = {name: each for name, each in vars(hookspecs).items() if hasattr(each, "llmx_spec")}
    for name in dir(listener):
        function = inspect.getattr_static(listener, name)
        if not (inspect.isfunction(function) and hasattr(function, MARK)):
            continue
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=3)
            hint = f"nearest: {', '.join(near)}" if near else "`llmx hooks` lists them"
            yield f"unknown hook {name!r}; {hint}", function
            continue
        known = list(inspect.signature(specs[name]).parameters)
        asked = [each for each in inspect.signature(function).parameters if each != "self"]
        others = [each for each in asked if each not in known]
        if others:
            has = f"has {', '.join(known)}" if known else "has no arguments"
            yield f"{name} asks for {', '.join(others)}, and the hook {has}", function


def place(function: Any) -> str:
    """Return `file:line` of a function."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
