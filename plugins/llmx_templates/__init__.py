"""Chat templates: ChatML, Qwen3, Llama 3, and the Jinja of a model's own folder."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen, validators

from llmx import Component, hookimpl


@frozen
class Qwen3Options:
    thinking: bool = True
    """Whether an assistant thinks before it answers. Off, thoughts are left out and the mark of an empty thought is put
    before the answer, which is how Qwen3 is asked not to think. On is what its published template does by itself."""


@frozen
class JinjaOptions:
    path: str = field(validator=validators.min_len(1))
    """A model folder, a `.jinja` file or a tokenizer_config.json; `~` is the home folder. A folder's
    chat_template.jinja goes before what its other files hold. The template is never given more than a bounded amount of
    work, and nothing of Python."""
    thinking: bool | None = None
    """What the template sees as `enable_thinking`. Unset: nothing, so that its own default holds."""
    date: str = field(default="2024-07-26", validator=validators.matches_re(r"\d{4}-\d\d-\d\d"))
    """The day that a template is told when it asks for today's, as year-month-day, so that data prepared twice is the
    same. The default is the day that Llama's templates fall back to."""


@hookimpl
def llmx_templates() -> Iterable[Component]:
    return [
        Component(
            name="chatml",
            target="llmx_templates.chatml:ChatmlTemplate",
            summary="<|im_start|>role ... <|im_end|>; tools as Qwen writes them, thoughts kept in every turn",
        ),
        Component(
            name="qwen3",
            target="llmx_templates.qwen3:Qwen3Template",
            options=Qwen3Options,
            summary="Qwen3's published template, with thinking on or off",
        ),
        Component(
            name="llama",
            target="llmx_templates.llama:LlamaTemplate",
            summary="<|start_header_id|>role<|end_header_id|> ... <|eot_id|>, as Llama 3 has it",
        ),
        Component(
            name="jinja",
            target="llmx_templates.jinja:JinjaTemplate",
            options=JinjaOptions,
            summary="the template in a model's folder, in a sandbox with bounds",
        ),
    ]
