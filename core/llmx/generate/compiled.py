"""A token of one sequence in one graph of torch.compile, which joins its many small operations and reads weights fast.

Shapes: `K` key-value heads, `S` tokens a buffer holds, `H` head width, `V` vocabulary.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmx.errors import RecipeError
from llmx.nn.attention import attend
from llmx.nn.cache import LEAST_HELD, KVCache
from llmx.protocols import Model


def _guards_kept(entries: Sequence[Any]) -> list[bool]:
    """Look at what a graph is called with alone: the model is ours and does not change, and to look at each of its
    modules takes a tenth of a step."""
    kept = {"TENSOR_MATCH", "SHAPE_ENV", "CONSTANT_MATCH", "EQUALS_MATCH"}
    return [each.guard_type in kept and not each.is_global and "_model" not in each.name for each in entries]


OPTIONS: dict[str, Any] = {"cpp_wrapper": True, "guard_filter_fn": _guards_kept, "realize_reads_threshold": 1}
"""Of Inductor: what calls the kernels is compiled too, and what many sums read, such as a norm, is computed once."""

SHORT = 1024
"""Longest context in fp32 whose attention is computed by sums: to call torch's kernel takes as long as 400 tokens; of
thousands it is twice as fast, and in bf16 as fast from the first."""

NEAR = 0.05
"""Most relative error of the logits, beside those that the same weights give without a compiler: bf16 makes 0.02."""

FIRST_S, BLOCK_S = 20, 3
"""Seconds that two cores take to compile a step, and for each block of it."""


class CompiledStep:
    """The step of one model; rows go through it one by one, so that none depends on how many there are. Prompts are
    computed by the model as ever.

    Args:
        model: packed by `llmx.nn.packed` with `compiled`.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        # code of its own: the compiler keeps a short list of graphs for each, and looks through it at every call
        own = types.FunctionType(CompiledStep._plain.__code__.replace(), globals())
        self._graph: Any = torch.compile(types.MethodType(own, self), fullgraph=True, dynamic=True, options=OPTIONS)

    def __call__(self, token: int, cache: KVCache) -> Tensor:
        """Return `logits_V` in fp32 after one more token, which the cache then holds."""
        buffers_BKSH = cache.room()
        past = cache.length
        logits_V = self._graph(torch.tensor([[token]]), torch.tensor([past]), past + 1, buffers_BKSH)
        cache.advance(1)
        return cast(Tensor, logits_V.float())

    def _plain(self, ids_11: Tensor, past_1: Tensor, end: int, buffers_BKSH: Sequence[Tensor]) -> Tensor:
        """As `__call__`."""
        given = _Buffers(past_1, end, buffers_BKSH, self._model.context_length)
        hidden_11D = self._model.hidden(ids_11, positions_BT=past_1[None], cache=given)
        head = getattr(self._model, "head", None)
        if head is None:
            return (hidden_11D @ self._model.head_weight().T)[0, -1]
        return cast(Tensor, head(hidden_11D)[0, -1])

    @torch.inference_mode()
    def build(self) -> None:
        """Compile, and compare what comes of it.

        Raises:
            RecipeError: the model has no cache of ours, there is no C++ compiler, or the graph computes otherwise.
        """
        cache = self._model.new_cache(1, LEAST_HELD)
        if not isinstance(cache, KVCache):
            raise RecipeError("compile: this model keeps its keys and values in its own way: leave --compile out")
        self._model.hidden(torch.zeros(1, 6, dtype=torch.long), cache=cache)
        for layer in cast(nn.Module, self._model).modules():
            for tensor in (each for each in vars(layer).values() if isinstance(each, Tensor)):
                torch._dynamo.mark_static(tensor)  # a size that is a symbol would be divided in every loop
        for buffer_BKSH in cache.room():
            for axis in (0, 1, 3):  # and axis 2 is one number for all: each more would cost 13 us a step
                torch._dynamo.mark_static(buffer_BKSH, axis)
        other = cache.copied(cache.length, LEAST_HELD)
        wanted_V = self._plain(torch.tensor([[1]]), torch.tensor([6]), 7, other.room()).float()
        try:
            given_V = self(1, cache)
        except Exception as error:  # of the compiler, or of the model's code, which it may not know how to read
            cause = getattr(error, "inner_exception", error)
            first = str(cause).strip().partition("\n")[0]
            raise RecipeError(
                f"compile: torch.compile failed: {type(cause).__name__}: {first}: install a C++ compiler where there "
                "is none, or leave --compile out"
            ) from error
        error_of = ((given_V - wanted_V).norm() / wanted_V.norm().clamp_min(1e-30)).item()
        if not error_of < NEAR:
            raise RecipeError(
                f"compile: the step computes wrongly (relative error {error_of:.3g}): leave --compile out"
            )


class _Buffers:
    """The cache as a graph sees it: tensors and a length, nothing of which it makes a constant."""

    length = 0

    def __init__(self, past_1: Tensor, end: int, buffers_BKSH: Sequence[Tensor], context_length: int) -> None:
        self._past_1, self._end, self._buffers_BKSH = past_1, end, buffers_BKSH
        self._context_length = context_length

    def attend(self, block: int, q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """As `KVCache.attend`, for one token."""
        k_BKSH, v_BKSH = self._buffers_BKSH[2 * block : 2 * block + 2]
        k_BKSH.index_copy_(2, self._past_1, k_BKTH)
        v_BKSH.index_copy_(2, self._past_1, v_BKTH)
        k_BKSH, v_BKSH = k_BKSH[:, :, : self._end], v_BKSH[:, :, : self._end]
        if q_BNTH.dtype == torch.float32 and self._context_length <= SHORT:
            return _sums(q_BNTH, k_BKSH, v_BKSH)
        return attend(q_BNTH, k_BKSH, v_BKSH, None)

    def advance(self, tokens: int) -> None:
        """Nothing: who calls the graph counts."""


def _sums(q_BN1H: Tensor, k_BKSH: Tensor, v_BKSH: Tensor) -> Tensor:
    """Return attention of one position as sums, which the compiler joins with what stands around them."""
    q_BKG1H = q_BN1H.view(len(q_BN1H), k_BKSH.shape[1], -1, 1, q_BN1H.shape[-1]) * q_BN1H.shape[-1] ** -0.5
    weights_BKGS = (q_BKG1H * k_BKSH[:, :, None]).sum(-1).softmax(-1)
    y_BKGH: Tensor = (weights_BKGS[..., None] * v_BKSH[:, :, None]).sum(-2)
    return y_BKGH.flatten(1, 2)[:, :, None]


def compile_steps(models: Sequence[Model], device: torch.device) -> None:
    """Give each packed model a compiled step, which an engine then uses.

    Raises:
        RecipeError: as `CompiledStep.build`, or the device is none that this is for.
    """
    if device.type != "cpu":
        raise RecipeError(f"compile: is for cpu, not for {device.type}: leave --compile out")
    for number, model in enumerate(models, 1):
        which = f" {number} of {len(models)}" if len(models) > 1 else ""
        seconds = FIRST_S + len(model.blocks()) * BLOCK_S
        sys.stderr.write(f"llmx: compiling the step{which}: about {seconds} s, less where it was done before\n")
        sys.stderr.flush()
        step = CompiledStep(model)
        step.build()
        model.one_token = step  # type: ignore[attr-defined]  # a mark, as `rows_alone` is
