"""A class of transformers that keeps our contract: its modules and names stay, and its forward is ours.

Shapes: `B` batch, `T` time, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from llmx.errors import RecipeError
from llmx.nn import only_shape
from llmx.protocols import Role
from llmx_transformers.fitness import blocks_of, name_of


class GrowingCache:
    """A cache of transformers with a count of its tokens."""

    def __init__(self, past: DynamicCache, capacity: int) -> None:
        self.past = past
        self.capacity = capacity

    @property
    def length(self) -> int:
        """Tokens held so far."""
        return int(self.past.get_seq_length())


class BridgedModel(PreTrainedModel):
    """What a class of transformers gets in front of its own methods. `become_ours` is called once it is built."""

    tied_names: Sequence[str] = ()

    def become_ours(self) -> None:
        """Set what the contract names, and drop a head that is the embedding: one weight has one name."""
        self.vocab_size = int(self.config.vocab_size)
        self.context_length = int(self.config.max_position_embeddings)
        self._keeps_apart: bool | None = None  # not measured yet
        self.base_model.warn_if_padding_and_no_attention_mask = _say_nothing  # padding is a document of its own
        head = self.get_output_embeddings()
        self._head_name = name_of(self, head)
        if head.weight is self.get_input_embeddings().weight:
            self.tied_names = (f"{self._head_name}.weight",)
            parent, _, name = self._head_name.rpartition(".")
            setattr(self.get_submodule(parent), name, None)

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: GrowingCache | None = None,
    ) -> Tensor:
        hidden_BTD = self.hidden(ids_BT, documents_BT=documents_BT, positions_BT=positions_BT, cache=cache)
        return nn.functional.linear(hidden_BTD, self.head_weight())

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: GrowingCache | None = None,
    ) -> Tensor:
        if cache is not None and cache.length + ids_BT.shape[1] > cache.capacity:
            raise ValueError(f"cache of {cache.capacity} tokens cannot hold {cache.length + ids_BT.shape[1]}")
        mask_BNTS = None
        if only_shape(ids_BT):  # transformers looks at values to tell documents; there only shapes count
            keys = ids_BT.shape[1] + (0 if cache is None else cache.length)
            mask_BNTS = torch.ones(len(ids_BT), 1, ids_BT.shape[1], keys, dtype=torch.bool, device=ids_BT.device)
        elif documents_BT is not None:
            positions_BT = self._restarting_positions(documents_BT)  # by which transformers tells documents
        output = self.base_model(
            input_ids=ids_BT,
            attention_mask=mask_BNTS,
            position_ids=positions_BT,
            past_key_values=None if cache is None else cache.past,
            use_cache=cache is not None,
        )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    def _restarting_positions(self, documents_BT: Tensor) -> Tensor | None:
        """Return the positions that keep documents apart; None where each row is one document, padded or not, in a
        family that cannot keep more of them apart.

        Raises:
            RecipeError: it cannot, and a row has more.
        """
        if self._keeps_apart is None:
            self._keeps_apart = True  # what follows comes here again
            self._keeps_apart = self._measured_apart(documents_BT.device)
        if self._keeps_apart:
            return positions_of(documents_BT)
        if bool(((documents_BT != documents_BT[:, :1]) & (documents_BT >= 0)).any()):
            family = f"model: {self.config.model_type} of transformers"
            raise RecipeError(f'{family} lets packed documents see each other: set data.packing = "none"')
        return None

    @torch.compiler.disable
    def _measured_apart(self, device: torch.device) -> bool:
        """Return whether a document leaves the hidden states of the one after it as they are."""
        documents_BT = torch.tensor([[0, 0, 1, 1]], device=device)
        found, devices = [], [] if device.type == "cpu" else [device]
        for first in (0, 2):
            with torch.random.fork_rng(devices, device_type=device.type), torch.no_grad():  # dropout draws alike
                torch.manual_seed(0)
                ids_BT = torch.tensor([[first, first + 1, 4, 5]], device=device) % self.vocab_size
                found.append(self.hidden(ids_BT, documents_BT=documents_BT)[:, 2:].float())
        return float((found[0] - found[1]).norm()) <= 1e-2 * float(found[0].norm())

    def head_weight(self) -> Tensor:
        module = self.get_input_embeddings() if self.tied_names else self.get_submodule(self._head_name)
        weight: Tensor = module.weight
        return weight

    def new_cache(self, batch_size: int, length: int) -> GrowingCache:
        return GrowingCache(DynamicCache(config=self.config), length)

    # --- structure --------------------------------------------------------------------------------------------------

    def blocks(self) -> Sequence[nn.Module]:
        layers: Sequence[nn.Module] = blocks_of(self)
        return layers

    def roles(self) -> dict[str, Role]:
        modules = dict(self.named_modules())
        head = None if self.tied_names else f"{self._head_name}."
        return {name: _role(name, p, modules, head) for name, p in self.named_parameters()}

    def flops_per_token(self, sequence_length: int) -> int:
        """2 operations a weight of every matrix product, and T/2 keys a query on average under the causal mask, times
        3 for forward and backward; a sliding window's saving is left out."""
        roles, config = self.roles(), self.config
        matrices = sum(p.numel() for name, p in self.named_parameters() if roles[name] == "hidden")
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = len(self.blocks()) * config.num_attention_heads * head_width * (sequence_length + 1)
        return int(3 * 2 * (matrices + self.head_weight().numel() + attention))

    # --- files ------------------------------------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """Return the family's config, with the rotary angles in the spelling of transformers 4 as well as 5."""
        left_out = ("_name_or_path", "dtype", "id2label", "label2id", "transformers_version")
        config = {key: value for key, value in self.config.to_dict().items() if key not in left_out}
        rope = config.get("rope_parameters") or {}
        if "rope_theta" in rope:
            config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
        return {**config, "architectures": [type(self).__mro__[2].__name__], "use_cache": True}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._make_buffers()
        return result

    def _make_buffers(self) -> None:
        """Give buffers that are in no state dict, such as rotary angles, their values where they are on the meta device
        and the weights are not.

        Raises:
            RecipeError: the family does not say how one is made.
        """
        lost = [name for name, buffer in self.named_non_persistent_buffers() if buffer.is_meta]
        if not lost or any(parameter.is_meta for parameter in self.parameters()):
            return
        for tensor in self.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = True  # what transformers leaves as it is when it makes the rest
        for name in lost:
            buffer = self.get_buffer(name)
            value = torch.full_like(buffer, torch.nan if buffer.is_floating_point() else 0, device="cpu")
            _set_buffer(self, name, value)
        with torch.no_grad():
            for owner in dict.fromkeys(name.rpartition(".")[0] for name in lost):
                self._init_weights(self.get_submodule(owner))
        for name in lost:
            if self.get_buffer(name).isnan().any():
                raise RecipeError(f"model: {self.config.model_type} of transformers does not say how {name} is made")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BridgedModel:
        """Move and cast; buffers that are in no state dict keep their type, for in bf16 rotary angles are wrong."""
        before = {name: buffer.dtype for name, buffer in self.named_non_persistent_buffers()}
        values = {name: self.get_buffer(name) for name in before}
        super()._apply(fn, recurse)
        for name, dtype in before.items():
            now = self.get_buffer(name)
            if now.dtype != dtype:
                _set_buffer(self, name, values[name].to(now.device))
        return self


def _say_nothing(*_: Any) -> None:
    pass


def _set_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._buffers[last] = value


@functools.cache
def bridged(cls: type[PreTrainedModel]) -> type[BridgedModel]:
    """Return the class of ours that has the modules, and the names of parameters, of one of transformers."""
    # in the module of the original, where transformers looks for what a model can do
    return type(f"Bridged{cls.__name__}", (BridgedModel, cls), {"__module__": cls.__module__})


def positions_of(documents_BT: Tensor) -> Tensor:
    """Return the position of each token in its document, from 0."""
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    first_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    first_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index_T - (index_T * first_BT).cummax(1).values


def _role(name: str, parameter: Tensor, modules: Mapping[str, nn.Module], head: str | None) -> Role:
    owner, _, last = name.rpartition(".")
    if last == "bias":
        return "bias"
    if isinstance(modules[owner], nn.Embedding):
        return "embedding"
    if head is not None and name.startswith(head):
        return "head"
    return "norm" if parameter.ndim < 2 else "hidden"
