"""What a program asks a model for: texts that go on, and answers in a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from llmx.errors import RecipeError
from llmx.generate.language_model import LanguageModel
from llmx.generate.prompts import ChatPrompt
from llmx.protocols import Message, Sampler

if TYPE_CHECKING:
    from llmx.assembly import Run


def answer(
    run: Run, prompt: Any, *, max_new_tokens: int | None, temperature: float | None, seed: int | None
) -> str | list[str]:
    """Return how a run's model as it is now continues a prompt, or each of several."""
    chain = run.chain if temperature is None else _at_temperature(run, temperature)
    model = LanguageModel(run.model, run.tokenizer, chain, run.recipe.generate, run.template, ends=run.ends)
    training = run.module.training
    run.module.eval()
    try:
        text: str | list[str] = model.generate(_prompt(run, prompt), max_new_tokens=max_new_tokens, seed=seed)
        return text
    finally:
        run.module.train(training)


def _prompt(run: Run, prompt: Any) -> Any:
    """Return a text, a list of texts, or the chat that a list of turns is."""
    if isinstance(prompt, str | ChatPrompt):
        return prompt
    turns = list(prompt)
    if turns and all(isinstance(each, str) for each in turns):
        return turns
    if not turns or not all(isinstance(each, Message | Mapping) for each in turns):
        raise RecipeError("prompt: give a text, a list of texts, or a chat, a list of turns with role and content")
    if run.template is None:
        raise RecipeError("prompt: is a chat, and the run has no template, since its data holds no chats: give a text")
    return ChatPrompt(tuple(_message(each) for each in turns))


def _message(turn: Message | Mapping[str, Any]) -> Message:
    if isinstance(turn, Message):
        return turn
    try:
        return Message(str(turn["role"]), str(turn["content"]))
    except KeyError as error:
        raise RecipeError(f"prompt: a turn lacks {error}") from error


def _at_temperature(run: Run, temperature: float) -> Sequence[Sampler]:
    """Return the run's sampler chain with another temperature; 0 takes the best token always.

    Raises:
        RecipeError: the chain has none.
    """
    if temperature < 0:
        raise RecipeError(f"temperature = {temperature}: must be 0, for the best token always, or more")
    greedy = run.registry.find("sampler", "llmx:greedy")
    if temperature == 0:
        return [cast(Sampler, greedy.component.load()(greedy.component.options(), run.tokenizer))]
    parts = list(run.recipe.samplers)
    at = next((n for n, part in enumerate(parts) if hasattr(part.options, "temperature")), None)
    if at is None:
        raise RecipeError("temperature: the run's sampler chain has none: name it in sampler=[…]")
    parts[at] = attrs.evolve(parts[at], options=attrs.evolve(parts[at].options, temperature=temperature))
    return [part.build(run.tokenizer) for part in parts]
