"""A template, a style and a script put into one HTML file under a policy that allows just these."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from llmx import __version__


def render_page(
    package: str, mark: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """Return the page of a package's `page.html`, `page.css` and, if it has one, `page.js`.

    Values are text: they are escaped, and no script of theirs runs.

    Args:
        mark: an element that says what the page is; it stands near the top.
    """
    shared, own = resources.files("llmx.page"), resources.files(package)
    css = _text(shared / "base.css") + _text(own / "page.css")
    js = _text(shared / "theme.js") + (_text(own / "page.js") if (own / "page.js").is_file() else "")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters or {})
    text = environment.from_string(_text(own / "page.html")).render(
        mark=Markup(mark),
        policy=policy(css, js),
        css=Markup(css),
        js=Markup(js),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        **values,
    )
    return encodable(text)


def _text(file: Any) -> str:
    text: str = file.read_text(encoding="utf-8")
    return text


def encodable(text: str) -> str:
    """Return a text without the halves of characters that JSON and file names can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def policy(css: str, js: str) -> str:
    """Return a content security policy under which only the page's own style and script count."""

    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return f"default-src 'none'; style-src {hashed(css)}; script-src {hashed(js)}; base-uri 'none'; form-action 'none'"


def script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
