"""A template that opens a thought: where an answer begins in one, and where it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = "chat_template.jinja"


@pytest.fixture(scope="module")
def thinking(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a template that ends a prompt within a thought, as DeepSeek-R1's does."""
    copy = tmp_path_factory.mktemp("thinking") / "m"
    shutil.copytree(published, copy)
    text = (copy / TEMPLATE).read_text()
    opened = text.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    assert opened != text
    (copy / TEMPLATE).write_text(opened)
    return copy


def test_an_answer_of_a_form_has_no_thought(thinking: Path, serve: Any) -> None:
    """The form binds from the first token on: what comes is content, whole and streamed; else it is a thought."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Yes?"}], "temperature": 0, "max_tokens": 20}
    schema = {"name": "a", "schema": {"enum": ["yes", "no"]}}
    form = {"response_format": {"type": "json_schema", "json_schema": schema}}
    with serve(thinking) as server, server.client() as client:
        free = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        kept = client.post("/v1/chat/completions", json={**body, **form}).json()["choices"][0]["message"]
        stream = client.post("/v1/chat/completions", json={**body, **form, "stream": True}).text
    assert (free["content"], bool(free["reasoning_content"])) == ("", True)
    assert kept["content"] in ('"yes"', '"no"')
    assert "reasoning_content" not in kept
    assert "reasoning_content" not in stream
