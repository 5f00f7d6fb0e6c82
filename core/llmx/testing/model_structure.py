"""What every model must keep of its parameters, its files and its numbers; part of the suite `llmx.testing.model`.

Shapes: `T` tokens, `D` width, `V` vocabulary.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from llmx import pretrained
from llmx.protocols import Role
from llmx.testing import TOLERANCE
from llmx.testing.frame import Subject
from llmx.testing.reference import difference, random_ids, shaken

VOCAB = 97
"""Ids of the models that are checked: a prime, so that a size that was mixed up with another is noticed."""

MOST_PARAMETERS = 20_000_000
"""Largest model that is checked on a CPU: the suite takes ten to twenty seconds for it."""

LONGEST = 2048
"""Longest context that is filled."""

FEWER, MORE = 0.97, 1.25
"""How far a count of operations may be off the count of matrix products: little below, and above by what is no matrix
product (scans, gates, softmax)."""


def tiny(subject: Subject, *, seed: int = 0, vocab_size: int = VOCAB, shake: bool = True) -> Any:
    """Build the model in evaluation mode, if it is small enough.

    Args:
        shake: move its weights off their start (`llmx.testing.reference.shaken`).
    """
    parameters = sum(parameter.numel() for parameter in on_meta(subject, vocab_size).parameters())
    assert parameters <= MOST_PARAMETERS, (
        f"the model has {parameters:,} parameters: give options of a smaller one, at most {MOST_PARAMETERS:,}"
    )
    torch.manual_seed(seed)
    model = subject.build(vocab_size=vocab_size).eval()
    return shaken(model, seed) if shake else model


def on_meta(subject: Subject, vocab_size: int = VOCAB) -> Any:
    """Build the model on the meta device."""
    with torch.device("meta"):
        return subject.build(vocab_size=vocab_size)


def state_dict(subject: Subject) -> None:
    """The state dict is the whole model: saved as safetensors and loaded into another, it gives equal logits."""
    from safetensors.torch import load_file, save_file

    model, other = tiny(subject), tiny(subject, seed=1)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    for name in model.tied_names:
        assert name not in weights, f"{name} is in tied_names, so it is held by another name: not in the state dict too"
    save_file(weights, subject.scratch / "model.safetensors")
    other.load_state_dict(load_file(subject.scratch / "model.safetensors"), strict=True)
    ids_BT = random_ids(2, min(24, model.context_length), model.vocab_size)
    with torch.no_grad():
        off = difference(other(ids_BT), model(ids_BT))
    assert off <= TOLERANCE, f"with one state dict the logits differ by {off:.1e}: something of the model is not in it"


def config_round_trip(subject: Subject) -> None:
    """`from_config(to_config())`, through JSON and on the meta device, is an equal model once it has the weights."""
    model, cls = tiny(subject), subject.part.load()
    config = json.loads(json.dumps(model.to_config()))
    handles = subject.part.offer.component.handles
    assert not handles or any(fnmatch.fnmatch(str(config.get("model_type")), each) for each in handles), (
        f"config.json would say model_type = {config.get('model_type')!r}, the component handles {', '.join(handles)}"
    )
    with torch.device("meta"):
        other = cls.from_config(config)
    pretrained.load_weights(other, dict(model.state_dict()), Path("the state dict, for the model made from the config"))
    for name, value in [*other.named_parameters(), *other.named_buffers()]:
        assert value.device.type != "meta", f"{name} is still on the meta device when all weights are loaded"
    for name in ("vocab_size", "context_length", "tied_names"):
        wanted, found = getattr(model, name), getattr(other, name)
        assert found == wanted, f"{name} is {found!r} in the model made from the config, {wanted!r} in the first"
    again = json.loads(json.dumps(other.to_config()))
    changed = sorted(key for key in config.keys() | again.keys() if config.get(key) != again.get(key))
    assert not changed, f"to_config() of the model made from the config has another {changed[0]}"
    ids_BT = random_ids(2, min(24, model.context_length), model.vocab_size)
    with torch.no_grad():
        off = difference(other.eval()(ids_BT), model(ids_BT))
    assert off <= TOLERANCE, f"the model made from the config has logits {off:.1e} off: an option is not in the config"


def roles(subject: Subject) -> None:
    """Every parameter has a role that fits its shape, and nothing else has one."""
    model = tiny(subject)
    given, parameters = model.roles(), dict(model.named_parameters())
    for name in sorted(parameters.keys() | given.keys()):
        assert name in given, f"{name} has no role"
        assert name in parameters, f"{name} has a role and is no parameter"
        assert given[name] in get_args(Role), f"{name} has the role {given[name]!r}, want one of {get_args(Role)}"
        shape = list(parameters[name].shape)
        assert len(shape) >= 2 or given[name] in ("norm", "bias"), f"{name}, a {given[name]}, has the shape {shape}"
    for name, module in model.named_modules():
        wanted = {nn.Linear: ("hidden", "head"), nn.Embedding: ("embedding", "head")}.get(type(module))
        role = given.get(f"{name}.weight")
        assert wanted is None or role is None or role in wanted, (
            f"{name}.weight is the weight of a {type(module).__name__}, and its role is {role!r}"
        )
    tables = [
        name for name, role in given.items() if role == "embedding" and model.vocab_size in parameters[name].shape
    ]
    assert tables, f"no parameter of the role embedding has {model.vocab_size} rows"
    of_head = [name for name, parameter in parameters.items() if parameter is model.head_weight()]
    for name in of_head:
        wanted_role = "embedding" if name in tables and model.tied_names else "head"
        assert given[name] == wanted_role, (
            f"{name} is the head's weight; its role is {given[name]!r}, want {wanted_role}"
        )


def flops(subject: Subject) -> None:
    """`flops_per_token` is what torch counts for forward and backward; of the attention at least the causal half."""
    model = tiny(subject)
    long = min(128, model.context_length)
    short = max(1, long // 2)
    counted = {length: _counted_flops(model, length) for length in (short, long)}
    claimed = {length: model.flops_per_token(length) for length in (short, long)}
    growth = (counted[long] - counted[short]) / max(1, long - short)
    least = FEWER * (counted[short] - growth * short)
    assert least <= claimed[short] <= MORE * counted[short], (
        f"flops_per_token({short}) is {claimed[short]:,}, want {least:,.0f} to {MORE * counted[short]:,.0f}: "
        f"torch counts {counted[short]:,.0f} in matrix products, forward and backward, a multiply-add as 2"
    )
    grown, attention = claimed[long] - claimed[short], counted[long] - counted[short]
    slack = 0.02 * counted[short]
    assert 0.4 * attention - slack <= grown <= 1.1 * attention + slack, (
        f"from {short} to {long} tokens flops_per_token grows by {grown:,}, torch's count by {attention:,.0f}: "
        "causal attention has about half of that"
    )
    more = 1024
    wider = on_meta(subject, VOCAB + more)
    grown = wider.flops_per_token(short) - claimed[short]
    wanted = 6 * more * model.head_weight().shape[1]
    assert abs(grown - wanted) <= 0.05 * wanted, (
        f"with {more} more ids flops_per_token grows by {grown:,}, want {wanted:,}: "
        "the head multiplies by all of them, looking up an embedding by none"
    )


def _counted_flops(model: Any, length: int) -> float:
    """Return the operations per token of a forward and backward, as torch counts matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    ids_BT = random_ids(1, length, model.vocab_size)
    # the math backend: a fused kernel's count holds the scores that its backward makes again
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids_BT).sum().backward()
    return float(counter.get_total_flops() / length)


def meta_device(subject: Subject) -> None:
    """It is built on the meta device with the same shapes, and its forward runs there, as a dry run needs."""
    model, real = on_meta(subject), tiny(subject)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.device.type == "meta", f"{name} is on {value.device} in a model built on the meta device"
    found = {name: list(value.shape) for name, value in model.state_dict().items()}
    wanted = {name: list(value.shape) for name, value in real.state_dict().items()}
    changed = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not changed, f"{changed[0]} has another shape in a model built on the meta device, or is not in both"
    length = min(24, real.context_length)
    logits_BTV = model(torch.zeros(2, length, dtype=torch.long, device="meta"))
    assert list(logits_BTV.shape) == [2, length, real.vocab_size], f"logits there have shape {list(logits_BTV.shape)}"


def seeded(subject: Subject) -> None:
    """Weights come from torch's global generator: one seed gives one model, another seed another."""
    first, same, other = (tiny(subject, seed=seed, shake=False).state_dict() for seed in (0, 0, 1))
    for name, value in first.items():
        assert torch.equal(value, same[name]), f"{name} differs between two models built after torch.manual_seed(0)"
    assert any(not torch.equal(value, other[name]) for name, value in first.items()), (
        "models of two seeds are equal: the constructor sets a seed itself"
    )


def blocks_in_order(subject: Subject) -> None:
    """`blocks()` are different modules of the model, and a forward calls them in that order."""
    model = tiny(subject)
    blocks, inside = list(model.blocks()), {id(module) for module in model.modules()}
    assert blocks, "blocks() is empty"
    assert len({id(block) for block in blocks}) == len(blocks), "blocks() holds a module twice"
    calls: list[int] = []
    for index, block in enumerate(blocks):
        assert id(block) in inside, f"blocks()[{index}] is no module of the model: {type(block).__name__}"
        block.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    with torch.no_grad():
        model(random_ids(1, min(8, model.context_length), model.vocab_size))
    order = list(dict.fromkeys(calls))
    assert order == list(range(len(blocks))), (
        f"a forward calls blocks {order} of {len(blocks)}: call them in the order of blocks(), not their .forward"
    )


def context_length(subject: Subject) -> None:
    """A sequence may fill the context, in one forward and in a cache, to the last token."""
    model = tiny(subject)
    asked = getattr(subject.part.options, "context_length", None)
    assert asked in (None, model.context_length), (
        f"context_length = {model.context_length}, the option asks for {asked}"
    )
    length = min(model.context_length, LONGEST)
    ids_BT = random_ids(1, length, model.vocab_size)
    with torch.no_grad():
        full_BTV, cache = model(ids_BT), model.new_cache(1, length)
        if length > 1:
            model(ids_BT[:, :-1], cache=cache)
        last_BTV = model(ids_BT[:, -1:], cache=cache)
    off = difference(last_BTV[:, -1], full_BTV[:, -1])
    assert off <= TOLERANCE, f"the last of {length} tokens has logits {off:.1e} off when it comes out of a cache"
