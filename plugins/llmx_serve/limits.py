"""What a request may ask for; all of it is looked at before any work is done."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen, validators

positive: Any = validators.gt(0)


@frozen
class Limits:
    """Bounds of requests. Those of the command line are its options; the others have no need to differ."""

    body_bytes: int = field(default=4 * 2**20, validator=positive)
    """Most bytes of a request's body: a context of 128k tokens with room for JSON's escapes."""
    body_s: float = field(default=20.0, validator=positive)
    """Seconds in which a body must have come whole; a request holds nothing else until then."""
    bodies: int = field(default=8, validator=positive)
    """Most bodies of full size that are held at once, or as many bytes of smaller ones; above that a large one is
    answered 429. A body is held until it is prepared, and parsed takes 20 times its bytes at worst."""
    header_s: float = field(default=10.0, validator=positive)
    """Seconds in which a new connection must have sent the head of a request."""
    stall_s: float = field(default=30.0, validator=positive)
    """Seconds that a client may leave a full send buffer unread before its connection is cut."""
    max_tokens: int | None = field(default=None, validator=validators.optional(positive))
    """Most tokens that a request may ask for. None is the model's context."""
    choices: int = field(default=16, validator=positive)
    """Most answers of a request, `n` for every prompt: one takes no more slots than there are by default."""
    stop_strings: int = field(default=16, validator=positive)
    """Most stop strings of a request; OpenAI takes 4."""
    stop_chars: int = field(default=256, validator=positive)
    """Most characters of a stop string: each is looked for at every token."""
    messages: int = field(default=2048, validator=positive)
    """Most messages of a chat."""
    tools: int = field(default=128, validator=positive)
    """Most tools of a chat, as OpenAI has it."""
    biases: int = field(default=1024, validator=positive)
    """Most tokens in `logit_bias`, as OpenAI has it."""
    logprobs: int = field(default=20, validator=positive)
    """Most alternatives that are told for a token, as OpenAI has it."""
    depth: int = field(default=64, validator=positive)
    """Most levels of lists and objects in a body: templates and JSON writers go down them by recursion."""
    schema_bytes: int = field(default=64 * 2**10, validator=positive)
    """Most bytes of a JSON schema."""
    schema_nodes: int = field(default=512, validator=positive)
    """Most objects in a JSON schema: the time to make a grammar grows faster than they do."""
    schema_counts: int = field(default=512, validator=positive)
    """Most that the lengths and counts in a JSON schema may be together: a grammar has a state for each, and one of
    that size takes seconds with a large vocabulary."""
    chars_per_token: int = field(default=256, validator=positive)
    """Characters that no token of a vocabulary spells alone: a prompt with more than these for every token of the
    context cannot fit, and is refused before it is tokenised."""
    default_tokens: int = field(default=1024, validator=positive)
    """Tokens of a chat's answer where a request names no limit; a model that does not come to an end would otherwise
    hold its slot for a whole context. A completion has the run's `generate.max_new_tokens`."""
    preparing: int = field(default=64, validator=positive)
    """Most requests that are tokenised or wait for it; above that the answer is 429."""

    def chat_tokens(self, context_length: int) -> int:
        """Return the most tokens of a chat's answer for which no limit was named."""
        return min(self.default_tokens, self.max_tokens or context_length)

    def text_tokens(self, usual: int) -> int:
        """Return the most tokens of a completion for which no limit was named, where the run says `usual`."""
        return min(usual, self.max_tokens or usual)
