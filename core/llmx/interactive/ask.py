"""What a program asks a model for: texts that go on, and answers in a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from llmx.errors import RecipeError
from llmx.generate.language_model import LanguageModel
from llmx.generate.prompts import ChatPrompt, as_prompts
from llmx.protocols import Sampler

if TYPE_CHECKING:
    from llmx.assembly import Run


def answer(
    run: Run, prompt: Any, *, max_new_tokens: int | None, temperature: float | None, seed: int | None
) -> str | list[str]:
    """Return how a run's model as it is now continues a prompt, or each of several.

    Raises:
        RecipeError: the prompt is none, or a chat that the run has no template for.
    """
    asked = as_prompts(prompt)
    if isinstance(asked, ChatPrompt) and run.template is None:
        raise RecipeError("prompt: is a chat, and the run has no template, since its data holds no chats: give a text")
    chain = run.chain if temperature is None else _at_temperature(run, temperature)
    model = LanguageModel(run.model, run.tokenizer, chain, run.recipe.generate, run.template, ends=run.ends)
    training = run.module.training
    run.module.eval()
    try:
        text: str | list[str] = model.generate(asked, max_new_tokens=max_new_tokens, seed=seed)
        return text
    finally:
        run.module.train(training)


def _at_temperature(run: Run, temperature: float) -> Sequence[Sampler]:
    """Return the run's sampler chain with another temperature; 0 takes the best token of those that the others leave.

    Raises:
        RecipeError: the chain has none.
    """
    if temperature < 0:
        raise RecipeError(f"temperature = {temperature}: must be 0, for the best token always, or more")
    parts = list(run.recipe.samplers)
    if temperature == 0:
        greedy = run.registry.find("sampler", "llmx:greedy").component
        kept = [part.build(run.tokenizer) for part in parts if not hasattr(part.options, "temperature")]
        return [*kept, cast(Sampler, greedy.load()(greedy.options(), run.tokenizer))]
    at = next((n for n, part in enumerate(parts) if hasattr(part.options, "temperature")), None)
    if at is None:
        raise RecipeError("temperature: the run's sampler chain has none: name it in sampler=[…]")
    parts[at] = attrs.evolve(parts[at], options=attrs.evolve(parts[at].options, temperature=temperature))
    return [part.build(run.tokenizer) for part in parts]
