"""The contracts of the parts, for type checkers and readers. Nothing here imports torch when it runs.

Shapes: `B` batch, `T` time, `D` model width, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

Role: TypeAlias = Literal["embedding", "hidden", "head", "norm", "bias"]
"""What a parameter is for: optimizers and adapters choose by it. A tied embedding is an "embedding"."""

Schedule: TypeAlias = Callable[[int], float]
"""The factor on every peak learning rate at an update, counted from 0."""

IGNORE = -100
"""The label of a position that carries no loss (the field's convention)."""

LOOKS_SPECIAL = r"<[^<>\s]{1,60}>|\[[^\[\]\s]{1,30}\]"
"""What special tokens look like, as a regular expression; the tokenizer says whether one is (`special_id`)."""


ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response"), "tool"),
}
"""What a role is called, by what datasets call it."""
CALLS = ("function_call", "tool_call")
"""Roles of a turn whose content is the call itself, as JSON."""


@frozen
class Message:
    """One turn of a chat.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        loss: whether its tokens are trained on; None leaves that to the recipe (`data.loss_on`, `data.loss_turns`).
        reasoning: what an assistant thought before `content`, without the marks a template puts around it.
        tool_calls: what an assistant called: `{"name": str, "arguments": mapping}` each.
    """

    role: str
    content: str
    loss: bool | None = None
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@frozen
class Document:
    """One text or one chat of a corpus, and where it came from (`corpus.jsonl:17`).

    Attributes:
        text: plain text; empty for a chat.
        messages: the turns of a chat, in order; empty for plain text.
        tools: JSON schemas of the functions an assistant may call.
        rejected: for a preference pair, the turns that are worse than those at the end of `messages` they stand for.
        shared: of a preference pair, how many of `messages` stand before both; None where `rejected` has as many turns
            as it stands for.
    """

    text: str
    origin: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()
    shared: int | None = None

    @property
    def shared_turns(self) -> int:
        """How many turns of a preference pair stand before both of its sides."""
        return max(0, len(self.messages) - len(self.rejected)) if self.shared is None else self.shared


@frozen
class Piece:
    """A part of a chat as a template spells it.

    Attributes:
        text: in a piece of markup the special tokens it names are made; in one of content never.
        trained: whether the piece is what a turn says, its content and its end, so that it may be trained on. A turn
            of an assistant that is spelled otherwise once others follow it has no such piece.
        turn: number of the message that the piece spells; None for what belongs to none.
    """

    text: str
    markup: bool
    trained: bool = False
    turn: int | None = None


@frozen(eq=False)
class Batch:
    """Rows of tokens.

    Attributes:
        ids_BT: token ids, int64.
        labels_BT: the id each position should predict, `IGNORE` where none counts, int64.
        documents_BT: number of the document each position belongs to, int32; None where every row is one document.
            A position attends only to its own document.
        positions_BT: position within the document, restarting with it, int64; None where every row is one document.
        count: labels that are not `IGNORE`.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    documents_BT: Tensor | None
    positions_BT: Tensor | None
    count: int


class Cache(Protocol):
    """Keys and values of the tokens a model has seen; made by `Model.new_cache`."""

    length: int
    """Tokens held so far."""


class Model(Protocol):
    """A decoder: an `nn.Module` whose one forward serves training, evaluation and cached decoding.

    Parameter names are those of the family's Hugging Face layout, so a state dict is a checkpoint.
    """

    vocab_size: int
    context_length: int
    """Most tokens a sequence may have."""
    tied_names: Sequence[str]
    """Names a Hugging Face folder may hold besides, for tensors that are shared with another parameter."""

    def __call__(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return `logits_BTV`. With a cache, `ids_BT` continues what it holds, and it is extended in place."""
        ...

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return `hidden_BTD`, what the head is applied to; an objective may fuse the head with its loss."""
        ...

    def head_weight(self) -> Tensor:
        """Return the head's `weight_VD`."""
        ...

    def new_cache(self, batch_size: int, length: int) -> Cache:
        """Return an empty cache for `batch_size` rows of at most `length` tokens."""
        ...

    def blocks(self) -> Sequence[nn.Module]:
        """Return the repeated blocks in order: the units of checkpointing, compiling and sharding."""
        ...

    def roles(self) -> dict[str, Role]:
        """Return a role for every parameter name."""
        ...

    def flops_per_token(self, sequence_length: int) -> int:
        """Return forward plus backward floating-point operations per token (a multiply-add is 2)."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Return the Hugging Face `config.json`; `from_config` of the class builds an equal model from it."""
        ...


class Adapter(Protocol):
    """A change to a model before it is trained: LoRA, quantisation.

    One may have besides:

    * `quantises = True`: what it makes of the weights is smaller and not what they were. A run does not merge such a
      model at its end unless it is asked to, and then says what that does to the loss.
    * `save(folder, model)`: writes what was learnt into an existing folder, in the form that others read (PEFT's);
      `model` is what `apply` returned, or what later adapters made of that. The core adds the base to
      `adapter_config.json`.
    """

    identity: bool
    """Whether the adapted model gives the base model's logits until it is trained."""

    def apply(self, model: Model, device: torch.device) -> Model:
        """Return the model to train: parameters frozen, modules exchanged, in place or not.

        The weights of `model` are on the CPU, often memory-mapped, or on the meta device; they are not written to. What
        is returned may lie partly on `device` already, where a quantiser works module by module; the rest is moved
        there by who called. A layer that was exchanged keeps `in_features` and `out_features`.

        What it returns keeps the contract of `Model`; parameters it adds have roles. Names of its own parameters do
        not change from one call to the next, so that a state dict is a checkpoint. What is frozen has `requires_grad`
        False; a checkpoint may leave it out, and it is made from the base again.

        """
        ...

    def merge(self, model: Model) -> Model:
        """Return the model without the adapter, its change folded into weights of the base's names and shapes.

        The argument is a deep copy of what `apply` returned, on the CPU, and may be changed: look modules up in it, not
        in what was remembered of `apply`.
        """
        ...


class Template(Protocol):
    """How a chat is written as one text; what trained a model is what it is served with."""

    specials: Sequence[str]
    """Special tokens of its markup; a tokenizer that is learned for the run gets them."""
    stop: Sequence[str]
    """Special tokens that end the assistant's turn, the one that is trained first."""

    def pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, generate: bool = False
    ) -> list[Piece]:
        """Return the chat in order.

        Args:
            generate: end where the assistant begins to speak, after the markup that opens its turn.

        A chat that ends with an assistant's turn begins with the pieces of `generate` for the turns before that one.

        Raises:
            DataError: it cannot write these messages; the message says why.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write `chat_template.jinja` into a model folder, for transformers and vLLM."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back.

    One that is fast may have `encode_arrays(texts) -> list[numpy.ndarray]` besides: the ids of `encode_batch`, as int32
    and without a list of Python's for each. It is used where it is there.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None

    def special_id(self, token: str) -> int | None:
        """Return the id of a special token, None if there is none of that name."""
        ...

    def encode_markup(self, text: str) -> list[int]:
        """Return the ids of `text`, in which special tokens are made where they are named."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone; a special token is never made from text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode` of each text, in parallel where the tokenizer can."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special tokens give nothing, a broken UTF-8 sequence gives U+FFFD."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files `load` reads into an existing folder."""
        ...


class Dataset(Protocol):
    """Documents in a fixed order, any number of times."""

    def __iter__(self) -> Iterator[Document]: ...

    def fingerprint(self) -> str:
        """Return a string that changes when the documents may have."""
        ...


Objective: TypeAlias = Callable[["Model", Batch], "Tensor"]
"""Sum of the loss over the batch's counted tokens, a scalar. One that is an object may have besides:

* `pairs = True`: it compares the two sides of preference pairs. Documents 2k and 2k + 1 of a row are then the better
  and the worse side of its pair k, whole, and only what answers their one prompt has labels.
* `chats = True`: the data must hold chats.
* `count(batch) -> int`: what its sum is divided by; without it that is `batch.count`.
* `prepare(model)`: called once before the first step, and where a run resumes, with the model as it began.
* `metrics() -> dict[str, Tensor]`: sums of further figures since the last call, a scalar each, over what `count`
  counts, of the same names each time; a run logs their means as `train/NAME` and `val/NAME`.
"""


class Sampler:
    """One link of a chain over logits. A link for which each sequence has a history overrides `start` and `accept`.

    A row's result depends on its own logits and state alone, and a row never becomes all -inf.
    """

    def start(self, prompt_ids: Sequence[int]) -> Any:
        """Return the state of a new sequence."""
        return None

    def __call__(self, logits_BV: Tensor, states: Sequence[Any]) -> Tensor:
        """Return logits_BV changed for each row by its state; the argument may be changed in place."""
        raise TypeError(f"{type(self).__name__} defines no __call__")

    def accept(self, state: Any, token: int) -> None:
        """Note that `token` was drawn for the sequence of `state`."""


class Stateful(Protocol):
    """What a checkpoint saves of a callback or logger. Values are tensors, numbers, strings, lists and dicts."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
