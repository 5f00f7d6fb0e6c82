"""The engine answers each request as if it were alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx.errors import LlmxError, RecipeError
from llmx.generate.engine import Engine
from llmx.generate.prefixes import CHUNK
from llmx.generate.request import Answer, BusyError, Request
from llmx.nn.packed import pack
from llmx.protocols import Sampler
from llmx.registry import Registry
from llmx.testing.tiny import TinyTokenizer

VOCAB = 258


def model(name: str = "qwen3", **options: Any) -> Any:
    """A tiny model of random weights, large enough ones that its tokens vary."""
    component = Registry().find("model", name, "model").component
    torch.manual_seed(0)
    sizes = {"preset": "tiny", "context_length": 512, **options}
    made = component.load()(component.options(**sizes), vocab_size=VOCAB).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return made


@pytest.fixture(scope="module")
def tiny() -> Any:
    made = model()
    pack(made, "bf16")
    return made


def engine(tiny: Any, **options: Any) -> Engine:
    return Engine({"tiny": tiny}, TinyTokenizer(VOCAB), **options)


def chain(name: str, **options: Any) -> Sequence[Sampler]:
    component = Registry().find("sampler", name, "sampler").component
    return [component.load()(component.options(**options) if options else component.options(), TinyTokenizer(VOCAB))]


GREEDY = chain("greedy")
WARM = chain("temperature", temperature=1.5)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCAB - 2, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.wait().tokens]


ASKED = [
    Request(prompt(length, seed), GREEDY if seed % 2 else WARM, max_new_tokens=budget, seed=seed)
    for seed, (length, budget) in enumerate(
        [(3, 30), (CHUNK + 1, 9), (40, 22), (CHUNK, 14), (1, 40), (300, 5), (7, 17)]
    )
]


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4", None])
def test_tokens_do_not_depend_on_the_company(weights: Any) -> None:
    """Alone, all at once, and joining one after another: the same tokens, greedy and drawn, with log-probabilities."""
    tiny = model()
    pack(tiny, weights)
    alone = [ids(engine(tiny).submit(each)) for each in ASKED]
    together = engine(tiny)
    assert [ids(each) for each in [together.submit(each) for each in ASKED]] == alone
    joining = engine(tiny, slots=3)
    answers = []
    for each in ASKED:
        answers.append(joining.submit(each))
        joining.step()
        joining.step()
    assert [ids(each) for each in answers] == alone
    assert len({tuple(each) for each in alone}) == len(ASKED)


def test_more_than_were_proved_are_computed_in_parts() -> None:
    """Seventy at once say what each says alone: no product has a number of rows that was not looked at."""
    tiny = model()
    pack(tiny, "int4")
    many = [Request(prompt(5, seed), WARM, max_new_tokens=12, seed=seed, logprobs=0) for seed in range(70)]
    alone = [ids(engine(tiny).submit(each)) for each in many[:20]]
    together = engine(tiny, slots=70, most_waiting=70)
    assert [ids(each) for each in [together.submit(each) for each in many]][:20] == alone


def test_a_model_that_is_not_packed_is_as_true() -> None:
    """Its rows would depend on how many there are: each goes by itself."""
    plain = model()
    alone = [ids(engine(plain).submit(each)) for each in ASKED]
    together = engine(plain)
    assert [ids(each) for each in [together.submit(each) for each in ASKED]] == alone


def test_greedy_tokens_are_those_of_a_plain_loop(tiny: Any) -> None:
    """Without a cache, the whole text each time."""
    asked = prompt(20)
    whole = list(asked)
    with torch.inference_mode():
        for _ in range(12):
            whole.append(int(tiny(torch.tensor([whole]))[0, -1].argmax()))
    answer = engine(tiny).submit(Request(asked, GREEDY, max_new_tokens=12, logprobs=3)).wait()
    assert [token.id for token in answer.tokens] == whole[20:]
    assert answer.finish_reason == "length"
    with torch.inference_mode():
        logprobs_TV = tiny(torch.tensor([whole]))[0, 19:-1].float().log_softmax(-1)
    for token, logprobs_V in zip(answer.tokens, logprobs_TV, strict=True):
        assert token.logprob == pytest.approx(float(logprobs_V[token.id]), abs=0.05)
        assert token.top[0][0] == token.id
        assert len(token.top) == 3


def test_equal_beginnings_are_computed_once(tiny: Any) -> None:
    """A prompt that begins as one before takes its keys over, in whole chunks, and has the tokens it has alone; also
    while the other is still being answered."""
    common = prompt(2 * CHUNK + 30)
    requests = [Request([*common, *prompt(9, seed)], WARM, max_new_tokens=8, seed=seed) for seed in range(3)]
    alone = [ids(engine(tiny).submit(each)) for each in requests]
    shared = engine(tiny)
    first = shared.submit(requests[0])
    while not first.tokens:
        shared.step()
    second = shared.submit(requests[1])
    assert [ids(first), ids(second)] == alone[:2]
    third = shared.submit(requests[2])
    assert ids(third) == alone[2]
    assert [each.cached_tokens for each in (first, second, third)] == [0, 2 * CHUNK, 2 * CHUNK]
    assert shared.stats().reused_tokens == 4 * CHUNK
    whole = shared.submit(Request(common[: 2 * CHUNK], GREEDY, max_new_tokens=1)).wait()
    assert whole.cached_tokens == CHUNK  # a token at least is computed, for its logits


def test_kept_beginnings_have_a_bound(tiny: Any) -> None:
    """Above it those used least lately are let go; with none nothing is kept."""
    small = engine(tiny, prefix_bytes=0)
    ids(small.submit(Request(prompt(CHUNK + 5), GREEDY, max_new_tokens=2)))
    assert small.stats().cache_bytes == 0
    kept = engine(tiny)
    ids(kept.submit(Request(prompt(CHUNK + 5), GREEDY, max_new_tokens=2)))
    one = kept.stats().cache_bytes
    assert one > 0
    bounded = engine(tiny, prefix_bytes=2 * one)
    for seed in range(5):
        ids(bounded.submit(Request(prompt(CHUNK + 5, seed), GREEDY, max_new_tokens=2)))
    assert bounded.stats().cache_bytes == 2 * one
    assert bounded.submit(Request(prompt(CHUNK + 5, 0), GREEDY, max_new_tokens=2)).wait().cached_tokens == 0
    assert bounded.submit(Request(prompt(CHUNK + 5, 4), GREEDY, max_new_tokens=2)).wait().cached_tokens == CHUNK


class Says(Sampler):
    """Leaves one token alone: the next of a text."""

    def __init__(self, text: str) -> None:
        self.ids = list(text.encode())

    def start(self, prompt_ids: Sequence[int]) -> Any:
        return []

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        for logits_V, state in zip(logits_BV, states, strict=True):
            logits_V.fill_(-torch.inf)
            logits_V[self.ids[len(state) % len(self.ids)]] = 0.0
        return logits_BV

    def accept(self, state: Any, token: int) -> None:
        state.append(token)


@pytest.mark.parametrize(
    ("said", "stop", "shown", "reason"),
    [
        ("one two\nEND three", ("END",), "one two\n", "stop"),
        ("one two\nEN three", ("END",), "one two\nEN three", "length"),
        ("你好，世界。再见", ("世界",), "你好，", "stop"),
        ("aab", ("aaab", "ab"), "a", "stop"),
        ("abcd", ("bc", "abcde"), "a", "stop"),
        ("ends with EN", ("END",), "ends with EN", "length"),
    ],
)
def test_a_stop_string_is_never_shown(tiny: Any, said: str, stop: tuple[str, ...], shown: str, reason: str) -> None:
    """Neither whole nor in part, while it comes; what only began like one is shown after all."""
    request = Request([1], [Says(said)], max_new_tokens=len(said.encode()), stop=stop)
    seen = ""
    answer = engine(tiny).submit(request)
    for token in answer:
        seen += token.text
        assert shown.startswith(seen)
        assert "\ufffd" not in seen
    assert seen == shown
    assert answer.finish_reason == reason


def test_a_stop_token_ends_the_answer(tiny: Any) -> None:
    """It counts, and has no text."""
    answer = engine(tiny).submit(Request([1], [Says("abc.def")], stop_ids=frozenset(b"."))).wait()
    assert (answer.text, len(answer.tokens), answer.finish_reason) == ("abc", 4, "stop")


def test_the_context_ends_an_answer_without_budget() -> None:
    """The last token is the one that still fits."""
    short = model(context_length=64)
    answer = engine(short).submit(Request(prompt(60), GREEDY)).wait()
    assert (len(answer.tokens), answer.finish_reason) == (4, "length")


def test_a_prompt_that_does_not_fit_is_told(tiny: Any) -> None:
    """Before anything is computed."""
    asked = engine(tiny)
    with pytest.raises(RecipeError, match=r"prompt: is 0 tokens long; the model takes 1 to \d+"):
        asked.submit(Request([], GREEDY))
    with pytest.raises(RecipeError, match=r"prompt: is \d+ tokens long"):
        asked.submit(Request(prompt(tiny.context_length), GREEDY))
    with pytest.raises(RecipeError, match="model: 'other': no such model; there are: tiny"):
        asked.submit(Request([1], GREEDY, model="other"))


class Faulty(Sampler):
    """Fails at its third token."""

    def start(self, prompt_ids: Sequence[int]) -> Any:
        return []

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        if any(len(state) == 2 for state in states):
            raise ValueError("no third token")
        return logits_BV

    def accept(self, state: Any, token: int) -> None:
        state.append(token)


def test_a_fault_is_that_of_who_asked(tiny: Any) -> None:
    """A sampler that raises ends its own request; the others have what they have alone."""
    alone = ids(engine(tiny).submit(ASKED[0]))
    both = engine(tiny)
    good, bad = both.submit(ASKED[0]), both.submit(Request([1, 2], [Faulty()]))
    with pytest.raises(LlmxError, match=r"^the answer failed: ValueError: no third token") as told:
        bad.wait()
    assert isinstance(told.value.__cause__, ValueError)
    assert bad.finish_reason == "error"
    assert ids(good) == alone
    assert both.stats().active == 0


class Forbidding(Faulty):
    """Leaves no token."""

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        return torch.full_like(logits_BV, -torch.inf)


def test_a_chain_that_leaves_no_token_is_told(tiny: Any) -> None:
    """In words for users."""
    with pytest.raises(LlmxError, match=r"^sampler: the chain leaves no token to draw"):
        engine(tiny).submit(Request([1, 2], [Forbidding()])).wait()


@pytest.mark.parametrize("kind", [Faulty, Forbidding])
def test_of_rows_with_one_chain_only_who_is_at_fault_ends(tiny: Any, kind: type[Faulty]) -> None:
    """Requests share links that are equal: what a link raises of one row, or leaves it without, is not the others'."""

    class Picking(kind):  # type: ignore[misc,valid-type]
        """At fault with a prompt that begins with 9."""

        def start(self, prompt_ids: Sequence[int]) -> Any:
            return [0, 0] if prompt_ids[0] == 9 else [0] * 100

        def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
            if kind is Faulty:
                return super().__call__(logits_BV, states)
            for logits_V, state in zip(logits_BV, states, strict=True):
                if len(state) == 2:
                    logits_V.fill_(-torch.inf)
            return logits_BV

    link = Picking()
    good = [Request([number, 3], [link], max_new_tokens=8, seed=number, logprobs=1) for number in (1, 2, 4)]
    alone = [ids(engine(tiny).submit(each)) for each in good]
    together = engine(tiny)
    bad = together.submit(Request([9, 3], [link], max_new_tokens=8))
    assert [ids(each) for each in [together.submit(each) for each in good]] == alone
    with pytest.raises(LlmxError, match=r"no third token|leaves no token"):
        bad.wait()


class Refusing(Faulty):
    """Fails before its first token."""

    def start(self, prompt_ids: Sequence[int]) -> Any:
        raise ValueError("no start")


def test_what_fails_before_a_first_token_ends_its_answer_alone(tiny: Any) -> None:
    """A chain that does not start, and a seed that torch does not take: the thread goes on for others."""
    alone = ids(engine(tiny).submit(ASKED[0]))
    running = engine(tiny)
    running.start()
    with pytest.raises(LlmxError, match="no start"):
        running.submit(Request([1, 2], [Refusing()])).wait()
    with pytest.raises(LlmxError, match="Overflow"):
        running.submit(Request([1, 2], WARM, seed=2**70)).wait()
    assert running.alive
    assert ids(running.submit(ASKED[0])) == alone
    running.close()


def test_a_free_slot_is_no_place_in_the_queue(tiny: Any) -> None:
    """As many as there are slots are taken though none may wait, and one more is not; each may add a token or more."""
    running = engine(tiny, slots=2, most_waiting=0)
    answers = [running.submit(Request([1], WARM, max_new_tokens=1)) for _ in range(2)]
    with pytest.raises(BusyError):
        running.submit(Request([1], WARM))
    assert [len(ids(each)) for each in answers] == [1, 1]
    with pytest.raises(RecipeError, match="max_new_tokens: must be at least 1: 0"):
        running.submit(Request([1], WARM, max_new_tokens=0))


def test_a_thread_answers_many_callers(tiny: Any) -> None:
    """Requests from several threads, each as if alone; a full queue is told, and what is cancelled frees its slot."""
    alone = [ids(engine(tiny).submit(each)) for each in ASKED]
    running = engine(tiny, slots=2, most_waiting=len(ASKED))
    running.start()
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        found[number] = ids(running.submit(ASKED[number]))

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(len(ASKED))]
    for each in callers:
        each.start()
    for each in callers:
        each.join(60)
    assert [found[number] for number in range(len(ASKED))] == alone
    long = [running.submit(Request([1], WARM)) for _ in range(2)]
    while running.stats().active < 2:
        time.sleep(0.001)
    waiting = [running.submit(Request([1], WARM)) for _ in range(len(ASKED))]
    with pytest.raises(BusyError, match=f"{len(ASKED)} requests wait already"):
        running.submit(Request([1], WARM))
    for each in (*waiting, long[0]):
        each.cancel()
    assert long[0].wait().finish_reason == "cancelled"
    assert [each.wait().finish_reason for each in waiting] == ["cancelled"] * len(waiting)
    assert long[1].finish_reason is None
    running.close()
    assert long[1].wait().finish_reason == "cancelled"
    assert not running.alive
    with pytest.raises(BusyError, match="closing"):
        running.submit(ASKED[0])


def test_closing_may_wait_for_answers(tiny: Any) -> None:
    """What is under way ends whole within the time that is given."""
    running = engine(tiny)
    running.start()
    answer = running.submit(Request([1], WARM, max_new_tokens=20))
    running.close(drain_s=30)
    assert (len(answer.tokens), answer.finish_reason) == (20, "length")


def test_an_engine_whose_thread_fails_says_so(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer ends by an error, and it is not alive."""
    running = engine(tiny)
    monkeypatch.setattr(running, "_leave", lambda: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    running.start()
    answer = running.submit(Request([1], WARM))
    with pytest.raises(Exception, match="the engine failed: division by zero"):
        answer.wait()
    assert not running.alive


def test_a_cache_for_one_sequence_at_a_time_will_do() -> None:
    """A stranger's model whose cache cannot be one of several: each goes by itself, together with the others."""

    class Own:
        def __init__(self, cache: Any) -> None:
            self._cache = cache

        @property
        def length(self) -> int:
            length: int = self._cache.length
            return length

        def __getattr__(self, name: str) -> Any:
            if name in ("rows", "copied"):
                raise AttributeError(name)
            return getattr(self._cache, name)

    stranger = model()
    made = stranger.new_cache
    alone = [ids(engine(stranger).submit(each)) for each in ASKED]
    stranger.new_cache = lambda *sizes: Own(made(*sizes))
    together = engine(stranger)
    assert [ids(each) for each in [together.submit(each) for each in ASKED]] == alone


def test_a_model_that_computes_no_more_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed pass ends its requests; one after another they end the engine, and who watches it sees so."""
    broken = model()
    whole = broken.hidden
    failing = [True]

    def hidden(*given: Any, **named: Any) -> Tensor:
        if failing[0]:
            raise RuntimeError("out of memory")
        found: Tensor = whole(*given, **named)
        return found

    broken.hidden = hidden
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    running = engine(broken)
    running.start()
    with pytest.raises(LlmxError, match="out of memory"):
        running.submit(Request([1], WARM, max_new_tokens=2)).wait()
    failing[0] = False
    assert len(ids(running.submit(Request([1], WARM, max_new_tokens=2)))) == 2
    failing[0] = True
    for _ in range(20):
        if not running.alive:
            break
        with pytest.raises(Exception, match="out of memory"):
            running.submit(Request([1], WARM, max_new_tokens=2)).wait()
        time.sleep(0.01)
    assert not running.alive
