"""A link that drops every token with which the answer could not become JSON of a schema.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xgrammar

from llmx.errors import LlmxError, RecipeError
from llmx.protocols import Sampler
from llmx_xgrammar.vocabulary import token_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.protocols import Tokenizer
    from llmx_xgrammar import JsonSchemaOptions

PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
"""Where in the library's source an error was raised."""
CONTROL = re.compile(rb"[\x00-\x1f]")
_KNOWN: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], xgrammar.TokenizerInfo]] = weakref.WeakKeyDictionary()
"""The tokens of tokenizers in use, by those that end an answer: a second and 15 MB for a large vocabulary, and the same
for every schema."""


class JsonSchema(Sampler):
    """Keep an answer to a schema; it goes first in a chain, so that the others choose among what is left.

    White space is one space after a colon or a comma and none elsewhere: a model that was not trained on JSON may
    otherwise write nothing but that.

    Raises:
        RecipeError: the schema cannot be kept to, or the tokenizer has no end of a text.
    """

    def __init__(self, options: JsonSchemaOptions, tokenizer: Tokenizer) -> None:
        ends = [tokenizer.eos_id, *map(tokenizer.special_id, options.stop)]
        stop = tuple(sorted({each for each in ends if each is not None}))
        if not stop:
            raise RecipeError("json-schema: the tokenizer has no token that ends a text: name one in its option stop")
        known = _KNOWN.setdefault(tokenizer, {})
        if stop not in known:
            # the library lets control characters into strings of bounded length, where JSON has none
            vocabulary = [b"" if CONTROL.search(each) else each for each in token_bytes(tokenizer)]
            known[stop] = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=list(stop))
        info = known[stop]
        self._size = info.vocab_size
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        try:
            self._grammar = compiler.compile_json_schema(
                options.schema, any_whitespace=False, separators=(", ", ": "), strict_mode=True
            )
        except (RuntimeError, ValueError, TypeError) as error:  # whatever the library makes of a stranger's schema
            reason = PLACE.sub("", str(error).strip().rpartition("\n")[2])[:300]
            raise RecipeError(f"json-schema.schema: cannot be kept to: {reason}") from error

    def start(self, prompt_ids: Sequence[int]) -> xgrammar.GrammarMatcher:
        return xgrammar.GrammarMatcher(self._grammar)

    def accept(self, state: xgrammar.GrammarMatcher, token: int) -> None:
        if not state.accept_token(token):
            raise LlmxError(f"json-schema: token {token} was drawn, which the schema does not allow")

    def __call__(self, logits_BV: Tensor, states: Sequence[xgrammar.GrammarMatcher]) -> Tensor:
        mask = xgrammar.allocate_token_bitmask(len(states), self._size)
        for row, state in enumerate(states):
            state.fill_next_token_bitmask(mask, row)
        if not mask.any(-1).all():
            raise RecipeError("json-schema: the tokenizer has no token that the schema allows next")
        logits_BV[:, self._size :] = -math.inf  # rows of the head that have no token
        xgrammar.apply_token_bitmask_inplace(logits_BV, mask.to(logits_BV.device), vocab_size=self._size)
        return logits_BV
