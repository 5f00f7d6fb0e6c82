"""A model of ours as lm-evaluation-harness asks one.

Shapes: `B` rows, `T` time, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from torch import Tensor

from llmx.generate.chains import Link
from llmx.generate.forward import device_of
from llmx.generate.messages import messages_of
from llmx.generate.prompt_file import in_order
from llmx.generate.request import Request

if TYPE_CHECKING:
    from llmx.generate.language_model import LanguageModel

ROWS = 16
"""Rows of a forward pass."""
MAX_NEW_TOKENS = 256
"""Most tokens of an answer where a task does not say; the harness's own default."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Scores continuations by forward passes over padded rows, and answers through the engine.

    Args:
        name: of the adapter that answers; None is the model itself.
        chat: contexts are written by the template.
    """

    def __init__(self, loaded: LanguageModel, name: str | None, *, chat: bool = False) -> None:
        super().__init__()
        self.loaded, self.name, self.chat = loaded, name, chat
        self.model = loaded.model if name is None else loaded.adapted[name]

    @property
    def tokenizer_name(self) -> str:
        """Return what rendered requests are told apart by."""
        return "llmx"

    @property
    def max_length(self) -> int:
        return self.model.context_length

    @property
    def eot_token_id(self) -> int:
        tokenizer = self.loaded.tokenizer
        found = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
        return 0 if found is None else found

    @property
    def prefix_token_id(self) -> int:
        bos = self.loaded.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text as documents began in training; of a chat alone, whose markup says how it begins."""
        tokenizer = self.loaded.tokenizer
        if self.chat:
            return tokenizer.encode_markup(string)
        begins = tokenizer.bos_id is not None and add_special_tokens is not False
        return [*([tokenizer.bos_id] if begins and tokenizer.bos_id is not None else []), *tokenizer.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return a name for the results: the template is the one that trained the model."""
        return type(self.loaded.template).__name__ if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as the model's own template writes it; without a prompt, the last turn is left open."""
        template = self.loaded.template
        assert template is not None
        begun = "" if add_generation_prompt else chat_history[-1]["content"]
        asked = chat_history if add_generation_prompt else chat_history[:-1]
        return "".join(piece.text for piece in template.pieces(messages_of(asked), generate=True)) + begun

    # --- scores -----------------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return for each continuation its log-probability, and whether it is what greedy decoding gives."""
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda n: -len(requests[n][1]) - len(requests[n][2]))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            found.update(zip(chosen, self._scores([requests[n][1:] for n in chosen]), strict=True))
        return [found[number] for number in range(len(requests))]

    @torch.inference_mode()
    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Rows are padded on the right, where causal attention does not look; of long ones the end is read."""
        rows = [(context + continuation)[-self.max_length - 1 :] for context, continuation in pairs]
        width = max(len(row) for row in rows) - 1
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for row, ids in zip(ids_BT, rows, strict=True):
            row[: len(ids) - 1] = torch.tensor(ids[:-1])
        logits_BTV = self.model(ids_BT.to(device_of(self.model)))
        return [
            _score(logits_TV[len(ids) - 1 - len(continuation[-len(ids) + 1 :]) : len(ids) - 1], ids)
            for logits_TV, ids, (_, continuation) in zip(logits_BTV, rows, pairs, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, read in windows that each begin with one token of the last."""
        windows, counts = [], []
        for request in requests:
            rolled = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            here = [utils.make_disjoint_window(each) for each in rolled]
            windows += [(None, context, continuation) for context, continuation in here]
            counts.append(len(here))
        scores = iter(self._loglikelihood_tokens(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    # --- answers ----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what continues each context, up to one of its stop strings."""
        asked = [self._request(number, *request.args) for number, request in enumerate(requests)]
        return [answer.text for answer in in_order(self.loaded.new_engine(), asked)]

    def _request(self, number: int, context: str, given: dict[str, Any]) -> Request:
        until = given.get("until") or []
        most = int(given.get("max_gen_toks", MAX_NEW_TOKENS))
        most = min(most, self.max_length - 1)
        return Request(
            ids=self.tok_encode(context)[-(self.max_length - most) :],
            chain=self.loaded.chain_of(_links(given)),
            max_new_tokens=most,
            stop_ids=self.loaded.stop_ids(chat=self.chat),  # type: ignore[arg-type]  # attrs' converter hides what it takes
            stop=tuple(each for each in ([until] if isinstance(until, str) else until) if each),
            seed=number,
            model=self.name,
        )


def _links(given: dict[str, Any]) -> list[Link]:
    """Return the chain of a task's options, in which sampling is asked for by itself."""
    temperature = float(given.get("temperature") or 0.0)
    if not given.get("do_sample") or temperature == 0.0:
        return [("greedy", {})]
    top_p = given.get("top_p")
    return [("temperature", {"temperature": temperature}), *([] if top_p is None else [("top-p", {"p": float(top_p)})])]


def _score(logits_TV: Tensor, ids: list[int]) -> tuple[float, bool]:
    """Return the score of the last ids, as many as there are logits."""
    wanted_T = torch.tensor(ids[-len(logits_TV) :], device=logits_TV.device)
    logprobs_TV = logits_TV.float().log_softmax(-1)
    greedy = bool((logprobs_TV.argmax(-1) == wanted_T).all())
    return float(logprobs_TV.gather(1, wanted_T[:, None]).sum()), greedy
