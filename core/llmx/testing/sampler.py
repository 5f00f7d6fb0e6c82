"""What a sampler promises: each row by itself, never a row without a token, never a draw that a seed does not repeat.

Shapes: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from llmx.generate.engine import Engine
from llmx.generate.request import Request
from llmx.protocols import Sampler
from llmx.testing.frame import Subject
from llmx.testing.tiny import TinyTokenizer, random_states, registry

SIZES = (7, 300, 50_000)
CLOSE = 1e-5
"""Largest relative difference of logits that fp32 explains where sums are taken in another order."""


def any_size(subject: Subject) -> None:
    """It takes fp32 logits of any batch and vocabulary and returns as many of the same type."""
    for vocabulary in SIZES:
        link = build(subject, vocabulary)
        for rows in (1, 5):
            logits_BV = normal(rows, vocabulary)
            found = apply(link, logits_BV, starts(link, rows, vocabulary))
            where = f"logits of {rows} x {vocabulary}"
            assert isinstance(found, Tensor), f"{where} gave a {type(found).__name__}"
            assert found.shape == logits_BV.shape, f"{where} gave {' x '.join(map(str, found.shape))}"
            assert found.dtype == torch.float32, f"{where} in float32 gave {found.dtype}"


def always_a_token(subject: Subject) -> None:
    """A logit is a finite number or -inf, and each row keeps a token that can be drawn."""
    for vocabulary in SIZES:
        link = build(subject, vocabulary)
        for what, logits_BV in extremes(vocabulary).items():
            states = starts(link, len(logits_BV), vocabulary)
            for step in range(8):  # a history of one token again and again
                found_BV = apply(link, logits_BV, states)
                assert not found_BV.isnan().any(), f"{what}, {vocabulary} tokens: NaN after {step} tokens"
                assert not (found_BV == math.inf).any(), f"{what}, {vocabulary} tokens: +inf after {step} tokens"
                empty = (found_BV == -math.inf).all(-1).nonzero()
                assert not len(empty), f"{what}, {vocabulary} tokens: no token is left in a row after {step} tokens"
                for state, token in zip(states, found_BV.argmax(-1).tolist(), strict=True):
                    link.accept(state, token)


def masked_tokens_stay_masked(subject: Subject) -> None:
    """A token that an earlier link has masked with -inf stays masked."""
    link = build(subject)
    logits_BV = normal(5, 300)
    logits_BV[torch.rand(5, 300, generator=torch.Generator().manual_seed(1)) < 0.6] = -math.inf
    found_BV = apply(link, logits_BV, starts(link, 5, 300))
    revived = ((logits_BV == -math.inf) & (found_BV > -math.inf)).nonzero()
    assert not len(revived), f"token {int(revived[0, 1])} of row {int(revived[0, 0])} was -inf and can be drawn again"


def rows_are_alone(subject: Subject) -> None:
    """A row's result is that of the row by itself, whatever stands beside it and in whichever order."""
    link = build(subject)
    logits_BV = torch.cat([normal(4, 300), 20 * normal(2, 300, seed=1), torch.zeros(1, 300)])
    rows = len(logits_BV)
    found_BV = apply(link, logits_BV, starts(link, rows, 300))
    for row in range(rows):
        alone_V = apply(link, logits_BV[row : row + 1], [starts(link, rows, 300)[row]])[0]
        equal_rows(alone_V, found_BV[row], f"row {row} of {rows} differs from the row alone")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(2)).tolist()
    states = starts(link, rows, 300)
    turned_BV = apply(link, logits_BV[order], [states[row] for row in order])
    for place, row in enumerate(order):
        equal_rows(found_BV[row], turned_BV[place], f"row {row} differs where it stands at place {place}")


def sequences_are_alone(subject: Subject) -> None:
    """Sequences with histories of their own, decoded at once, get what each gets alone; equal prompts share nothing."""
    link = build(subject)
    prompts = [[5, 6, 7, 5, 6], [5, 6, 7, 5, 6], [9], [200, 201, 200, 201, 200]]
    drawn = [[7, 5, 6, 7], [1, 2, 3, 4], [9, 9, 9, 9], [201, 5, 201, 200]]
    before = [list(prompt) for prompt in prompts]
    states = [link.start(prompt) for prompt in prompts]
    together = history(link, states, drawn)
    for row, (prompt, tokens) in enumerate(zip(prompts, drawn, strict=True)):
        alone = history(link, [link.start(prompt)], [tokens], first=row)
        for step, (one_BV, all_BV) in enumerate(zip(alone, together, strict=True)):
            equal_rows(one_BV[0], all_BV[row], f"sequence {row} differs from itself alone after {step} drawn tokens")
    assert prompts == before, "start changed the list of the prompt's ids"


def draws_nothing_itself(subject: Subject) -> None:
    """It draws from no global generator, and equal logits and histories give an equal result."""
    link = build(subject)
    states, logits_BV = starts(link, 5, 300), normal(5, 300)
    before = random_states()
    first_BV = apply(link, logits_BV, states)
    assert random_states() == before, "it drew from a global generator: a run that generates would train otherwise"
    torch.manual_seed(1)
    random.seed(1)
    second_BV = apply(build(subject), logits_BV, starts(link, 5, 300))
    assert torch.equal(first_BV, second_BV), "the same logits and history gave another result the second time"


def a_seed_gives_the_same_text(subject: Subject) -> None:
    """In a real decoding loop it gives tokens of the vocabulary, and the same ones for the same seed."""
    link = build(subject, 258)
    target = registry().find("model", "llmx:tinyllm").component
    torch.manual_seed(0)
    model = target.load()(target.options(preset="nano"), vocab_size=258).eval()
    asked = Request([3, 4, 5], [link], max_new_tokens=24, seed=7)
    runs = [[token.id for token in Engine({"tiny": model}, None).submit(asked)] for _ in range(2)]
    assert len(runs[0]) == 24, f"24 tokens were asked for and {len(runs[0])} came"
    assert runs[0] == runs[1], f"the same seed gave {runs[0][:8]}... and then {runs[1][:8]}..."


CHECKS = (
    any_size,
    always_a_token,
    masked_tokens_stay_masked,
    rows_are_alone,
    sequences_are_alone,
    draws_nothing_itself,
    a_seed_gives_the_same_text,
)


# --- what the checks share ------------------------------------------------------------------------------------------


def build(subject: Subject, vocabulary: int = 300) -> Sampler:
    """Build the link with a tokenizer of that many ids at most."""
    link: Sampler = subject.build(TinyTokenizer(min(vocabulary, 258)))
    return link


def starts(link: Sampler, rows: int, vocabulary: int) -> list[object]:
    """Return the states of sequences with prompts of their own."""
    return [link.start([(row + place) % vocabulary for place in range(1 + 3 * row)]) for row in range(rows)]


def apply(link: Sampler, logits_BV: Tensor, states: Sequence[object]) -> Tensor:
    """Apply the link as decoding does, to a copy."""
    with torch.inference_mode():
        return link(logits_BV.clone(), states)


def history(link: Sampler, states: Sequence[object], drawn: Sequence[Sequence[int]], first: int = 0) -> list[Tensor]:
    """Return the result before each drawn token and after the last; row `first` of the logits is the first state's."""
    found = []
    for step in range(len(drawn[0]) + 1):
        found.append(apply(link, normal(8, 300, seed=step)[first : first + len(states)], states))
        if step < len(drawn[0]):
            for state, tokens in zip(states, drawn, strict=True):
                link.accept(state, tokens[step])
    return found


def normal(rows: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Return random logits."""
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def extremes(vocabulary: int) -> dict[str, Tensor]:
    """Return logits that leave little room."""
    equal = torch.zeros(2, vocabulary)
    peak, single, pair = equal.clone(), torch.full_like(equal, -math.inf), torch.full_like(equal, -math.inf)
    peak[:, 3] = 1e5
    single[0, 0] = single[1, vocabulary - 1] = -4.0
    pair[:, 1:3] = 2.0
    return {
        "all logits equal": equal,
        "all logits -100,000": equal - 1e5,
        "one logit of 100,000": peak,
        "one token that is not masked": single,
        "two tokens that are not masked": pair,
    }


def equal_rows(first_V: Tensor, second_V: Tensor, what: str) -> None:
    """Check that two rows keep the same tokens with the same logits."""
    other = ((first_V > -math.inf) != (second_V > -math.inf)).nonzero()
    assert not len(other), f"{what}: token {int(other[0])} is kept in one only"
    finite = first_V > -math.inf
    far = (first_V - second_V)[finite].abs() > CLOSE * (1 + first_V[finite].abs())
    assert not far.any(), f"{what}: logits differ by {float((first_V - second_V)[finite].abs().max()):.1e}"
