"""`/tokenize` and `/detokenize`: what a model reads."""

from __future__ import annotations

from typing import Any

from llmx_serve.asking import prompted
from llmx_serve.calls import told_tools
from llmx_serve.completions import read_prompts, read_tokens
from llmx_serve.faults import wrong
from llmx_serve.fields import Fields
from llmx_serve.limits import Limits
from llmx_serve.messages import read_messages, read_tools
from llmx_serve.models import Models


def tokenize(fields: Fields, models: Models, limits: Limits) -> dict[str, Any]:
    """Return the tokens of `prompt` or of `messages`, as a request with the same would give them to the model.

    Raises:
        ApiError: there is neither, or it does not fit.
    """
    served = models.named(fields.string("model"))
    model = served.base.model
    if fields.has("messages"):
        tools = told_tools(fields, read_tools(fields, limits), limits)
        prompt: Any = model.chat(read_messages(fields, limits), tools)
    elif fields.has("prompt"):
        prompt = fields.required("prompt")
        read_prompts(fields, served, limits)
    else:
        raise wrong("prompt", "is required, or messages", "missing_required_parameter")
    ids = list(prompted(served, prompt).ids)
    return {"tokens": ids, "count": len(ids), "max_model_len": served.context_length}


def detokenize(fields: Fields, models: Models) -> dict[str, Any]:
    """Return the text of `tokens`.

    Raises:
        ApiError: they are no tokens of the model.
    """
    served = models.named(fields.string("model"))
    if not fields.has("tokens"):
        raise wrong("tokens", "is required", "missing_required_parameter")
    ids = read_tokens(fields.array("tokens", served.context_length), "tokens", served)
    return {"prompt": served.base.model.tokenizer.decode(ids)}
