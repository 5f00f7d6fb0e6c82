"""Our objectives: the kit's promises, the formulas of their papers, and what each refuses."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llmx
from llmx import DataError, LlmxError, RecipeError
from llmx.nn import Adapted
from llmx.protocols import IGNORE, Batch
from llmx.testing.reference import ReferenceModel, batch_of, loss_sum, random_ids, reference_model, shaken
from llmx_objectives import CausalLMOptions, DPOOptions
from llmx_objectives.causal import causal_lm
from llmx_objectives.preference import dpo

PAIRS = 40
DPO = ["sigmoid", "conservative", "ipo"]
OPTIONS = {
    "sigmoid": DPOOptions(beta=0.3),
    "conservative": DPOOptions(label_smoothing=0.2),
    "ipo": DPOOptions(beta=0.2, loss="ipo"),
}


@pytest.mark.llmx_plugin("objectives")
def test_conforms(llmx_check: Callable[[], None]) -> None:
    """Everything that llmx expects of an objective holds for each of ours."""
    llmx_check()


@pytest.mark.llmx_plugin("dpo", options={"dpo": {"loss": "ipo"}})
def test_ipo_conforms(llmx_check: Callable[[], None]) -> None:
    """And for dpo with its other loss."""
    llmx_check()


@pytest.mark.llmx_plugin("causal-lm", options={"causal-lm": {"label_smoothing": 0.1, "z_loss": 1e-2}})
def test_smoothed_conforms(llmx_check: Callable[[], None], request: pytest.FixtureRequest) -> None:
    """And with labels smoothed, but that the loss is then no plain cross-entropy."""
    if "known-formula" not in request.node.name:
        llmx_check()
        return
    with pytest.raises(pytest.fail.Exception, match="the loss is"):
        llmx_check()


# --- causal-lm and chat ----------------------------------------------------------------------------------------------


def test_smoothing_and_penalty_are_for_training_alone() -> None:
    """The formulas of torch and PaLM over whole logits; in evaluation the cross-entropy of the labels."""
    model = reference_model()
    ids_BT = random_ids(3, 13, model.vocab_size)
    batch = batch_of(ids_BT[:, :-1], ids_BT[:, 1:])
    objective = causal_lm(CausalLMOptions(label_smoothing=0.2, z_loss=0.05))
    logits_MV, labels_M = model(batch.ids_BT).flatten(0, 1), batch.labels_BT.flatten()
    wanted = F.cross_entropy(logits_MV, labels_M, reduction="sum", label_smoothing=0.2)
    wanted = wanted + 0.05 * logits_MV.exp().sum(-1).log().square().sum()
    torch.testing.assert_close(objective(model, batch), wanted, rtol=1e-5, atol=1e-4)
    model.eval()
    torch.testing.assert_close(objective(model, batch), loss_sum(model, batch), rtol=1e-5, atol=1e-4)


def test_chat_refuses_data_without_chats(small: list[str], tmp_path: Path) -> None:
    """In one line, before anything is trained."""
    with pytest.raises(DataError, match=r'^objective "chat": the data holds no chats; .*causal-lm$'):
        llmx.run(overrides=small, objective="chat", out=tmp_path / "r", logger=[])
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.label_smoothing=1", r"label_smoothing"),
        ("objective.z_loss=-1", r"z_loss"),
    ],
)
def test_wrong_options_are_told(small: list[str], tmp_path: Path, override: str, message: str) -> None:
    """By the path of the option."""
    with pytest.raises(RecipeError, match=rf"objective\.{message}"):
        llmx.run(overrides=[*small, override], out=tmp_path / "r", logger=[])


def test_ipo_takes_no_label_smoothing(small: list[str], tmp_path: Path) -> None:
    """It has no probability that could be wrong."""
    given = ["objective.loss=ipo", "objective.label_smoothing=0.1"]
    with pytest.raises(RecipeError, match="label_smoothing"):
        llmx.run(overrides=[*small, *given], objective="dpo", out=tmp_path / "r", logger=[])


# --- dpo: formulas ---------------------------------------------------------------------------------------------------


def a_pair(seed: int) -> tuple[list[int], list[int], int]:
    """Return the ids of both sides, and how many of them are their prompt."""
    draw = random_ids(1, 20, 61, seed)[0].tolist()
    return draw[:4] + draw[4:11], draw[:4] + draw[11 : 14 + seed % 5], 4


def packed(pairs: list[tuple[list[int], list[int], int]], per_row: int, length: int = 64) -> Batch:
    """Put pairs into rows as the contract says, by plain loops."""
    rows = [pairs[at : at + per_row] for at in range(0, len(pairs), per_row)]
    shape = (len(rows), length)
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE)
    documents, positions = torch.full(shape, -1, dtype=torch.int32), torch.zeros(shape, dtype=torch.long)
    for row, members in enumerate(rows):
        at = 0
        for number, (better, worse, prompt) in enumerate(members):
            for side, tokens in enumerate((better, worse)):
                for place in range(len(tokens) - 1):
                    ids[row, at], positions[row, at], documents[row, at] = tokens[place], place, 2 * number + side
                    if place + 1 >= prompt:
                        labels[row, at] = tokens[place + 1]
                    at += 1
    return batch_of(ids, labels, documents, positions)


def answer_log_probs(model: ReferenceModel, tokens: list[int], prompt: int) -> Tensor:
    """Return log p of each token of the answer, of a sequence alone."""
    logits_TV = model(torch.tensor([tokens[:-1]]))[0]
    log_p_T = F.log_softmax(logits_TV, -1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return log_p_T[prompt - 1 :]


def by_hand(
    name: str, policy: ReferenceModel, reference: ReferenceModel, pairs: list[tuple[list[int], list[int], int]]
) -> tuple[Tensor, dict[str, float]]:
    """Equation 7 of the DPO paper, equation 3 of the note on cDPO, equation 17 of the IPO paper, one pair at a time.

    Written as trl's DPOTrainer has them: `logits = pi_logratios - ref_logratios`, and for IPO mean log-probabilities.
    """
    options = OPTIONS[name]
    total, figures = torch.zeros(()), dict.fromkeys(("chosen", "rejected", "margin", "accuracy"), 0.0)
    for better, worse, prompt in pairs:
        sides = []
        for tokens in (better, worse):
            now, then = (answer_log_probs(model, tokens, prompt) for model in (policy, reference))
            sides.append((now - then.detach()).mean() if name == "ipo" else (now - then.detach()).sum())
        h = sides[0] - sides[1]
        p = torch.sigmoid(options.beta * h)
        if name == "ipo":
            total = total + (h - 1 / (2 * options.beta)) ** 2
        else:
            total = total - (1 - options.label_smoothing) * p.log() - options.label_smoothing * (1 - p).log()
        rewards = [options.beta * float(side.detach()) for side in sides]
        figures["chosen"] += rewards[0]
        figures["rejected"] += rewards[1]
        figures["margin"] += rewards[0] - rewards[1]
        figures["accuracy"] += rewards[0] > rewards[1]
    return total, figures


@pytest.mark.parametrize("per_row", [1, 3])
@pytest.mark.parametrize("name", DPO)
def test_dpo_is_the_formula_of_its_paper(name: str, per_row: int) -> None:
    """Loss, gradient and rewards, of a model that has moved from its reference, one pair in a row or several."""
    reference = reference_model()
    policy, objective = reference_model(), dpo(OPTIONS[name])
    objective.prepare(policy)
    shaken(policy, 5)
    pairs = [a_pair(seed) for seed in range(7)]
    batch = packed(pairs, per_row)
    assert objective.count(batch) == 7
    wanted, figures = by_hand(name, policy, reference, pairs)
    found = objective(policy, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(each, list(policy.parameters())) for each in (found, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    measured = objective.metrics()
    assert {f"reward_{key}": pytest.approx(value, abs=1e-4) for key, value in figures.items()} == {
        key: float(value) for key, value in measured.items()
    }
    assert 0 < figures["accuracy"] < 7  # or nothing was told apart
    assert not any(objective.metrics().values())  # they are since the last call


def test_a_pair_with_one_side_counts_nothing() -> None:
    """Neither in the loss nor in the count."""
    model, objective = reference_model(), dpo(DPOOptions())
    pairs = [a_pair(seed) for seed in range(3)]
    batch = packed(pairs, 3)
    assert batch.documents_BT is not None
    labels = torch.where(batch.documents_BT == 3, IGNORE, batch.labels_BT)
    lame = batch_of(batch.ids_BT, labels, batch.documents_BT, batch.positions_BT)
    objective.prepare(model)
    shaken(model, 5)
    assert objective.count(lame) == 2
    torch.testing.assert_close(objective(model, lame), objective(model, packed([pairs[0], pairs[2]], 2)))


def test_a_batch_without_documents_is_refused() -> None:
    """It cannot hold a pair."""
    with pytest.raises(LlmxError, match="tells no documents apart"):
        dpo(DPOOptions())(reference_model(), batch_of(random_ids(1, 8, 61), random_ids(1, 8, 61)))


# --- dpo: the reference ----------------------------------------------------------------------------------------------


class Shift(Adapted):
    """A linear layer with a trained bias beside it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.shift = nn.Parameter(torch.zeros(base_layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x)
        return y + self.shift if self.adapted else y


def adapted_model() -> ReferenceModel:
    model = reference_model()
    model.requires_grad_(False)
    for block in model.blocks():
        block.self_attn.o_proj = Shift(block.self_attn.o_proj)  # type: ignore[assignment, union-attr, arg-type]
    return model


def test_an_adapted_models_reference_is_its_base() -> None:
    """Nothing is copied; the adapters are off for the reference alone, also when it fails."""
    model, objective = adapted_model(), dpo(OPTIONS["sigmoid"])
    objective.prepare(model)
    assert objective._copy is None
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    pairs = [a_pair(seed) for seed in range(5)]
    wanted, _ = by_hand("sigmoid", model, reference_model(), pairs)
    found = objective(model, packed(pairs, 2))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(*(torch.autograd.grad(each, trained) for each in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(IndexError):
        objective(model, packed([([99] * 9, [99] * 9, 4)], 1))
    assert all(each.adapted for each in model.modules() if isinstance(each, Adapted))


def test_what_is_trained_beside_adapters_needs_a_copy() -> None:
    """Switched off, they would not bring back the weights of before."""
    model, objective = adapted_model(), dpo(OPTIONS["sigmoid"])
    model.model.norm.weight.requires_grad_(True)
    objective.prepare(model)
    assert objective._copy is not None


def test_a_copy_stays_when_the_model_moves() -> None:
    """It is frozen, and the first call takes it where nobody prepared."""
    model, objective = reference_model(), dpo(OPTIONS["sigmoid"])
    batch = packed([a_pair(1)], 1)
    assert float(objective(model, batch).detach()) == pytest.approx(math.log(2))
    shaken(model, 3)
    assert float(objective(model, batch).detach()) != pytest.approx(math.log(2), abs=1e-4)
    assert objective._copy is not None
    for ours, theirs in zip(objective._copy.parameters(), reference_model().parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, tracing a Function
@pytest.mark.parametrize("adapted", [False, True])
def test_dpo_compiles(adapted: bool) -> None:
    """With the same loss, for both kinds of reference."""
    model = adapted_model() if adapted else reference_model()
    objective = dpo(OPTIONS["sigmoid"])
    objective.prepare(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 if p.requires_grad else 0.0
    batch = packed([a_pair(seed) for seed in range(4)], 2)
    compiled = torch.compile(objective, backend="aot_eager")
    trained = [p for p in model.parameters() if p.requires_grad]
    losses = [each(model, batch) for each in (objective, compiled)]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
    for one, other in zip(*(torch.autograd.grad(each, trained) for each in losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# --- dpo: a run ------------------------------------------------------------------------------------------------------


def pairs_file(folder: Path) -> str:
    """Preference pairs: the better answer says yes, the worse one no."""
    words = itertools.product(
        ["red", "blue", "green", "old", "new", "warm", "cold", "long"], ["hat", "cup", "key", "map", "hen"]
    )
    rows = [{"prompt": f"A {a} {b}?", "chosen": f"Yes, a {b}.", "rejected": f"No, no {a}."} for a, b in words]
    assert len(rows) == PAIRS
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(folder: Path, out: str, *overrides: str, **given: Any) -> Any:
    settings = [
        "model.preset=nano",
        "model.context_length=128",
        "data.held_out=0.2",
        "train.tokens_per_update=256",
        "train.steps=12",
        "train.precision=fp32",
        "optimizer.lr=5e-3",
        "eval.every=6",
        "checkpoint.every=6",
        "generate.samples=0",
        f"data.path={pairs_file(folder)}",
    ]
    return llmx.run(
        overrides=[*settings, *overrides],
        tokenizer="char",
        objective="dpo",
        logger=["jsonl"],
        out=folder / out,
        **given,
    )


def test_a_run_learns_what_is_preferred_and_resumes_exactly(tmp_path: Path) -> None:
    """From log 2 and no margin; killed halfway it ends with the same weights: the reference is that of the start."""
    whole = train(tmp_path, "whole", "checkpoint.keep_last=9")
    rows = metrics(tmp_path / "whole")
    steps = [row for row in rows if "train/loss" in row]
    held_out = [row for row in rows if "val/loss" in row]
    assert steps[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[0]["train/reward_margin"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["train/loss"] < 0.1
    assert held_out[-1]["val/loss"] < 0.2
    assert held_out[-1]["val/reward_accuracy"] == 1
    assert held_out[-1]["val/reward_margin"] == pytest.approx(
        held_out[-1]["val/reward_chosen"] - held_out[-1]["val/reward_rejected"], abs=1e-4
    )
    assert all("val/bits_per_byte" not in row for row in held_out)
    body = "from llmx import hookimpl\n@hookimpl\ndef llmx_before_step(run):\n    if run.state.step == 7: 1 / 0\n"
    (tmp_path / "kill.py").write_text(body)
    with pytest.raises(LlmxError, match="ZeroDivisionError"):
        train(tmp_path, "killed", hooks=[str(tmp_path / "kill.py")])
    (tmp_path / "kill.py").write_text(body.replace("1 / 0", "pass"))
    resumed = llmx.run(tmp_path / "killed", resume=True)
    assert resumed.state.step == 12
    for name, weight in resumed.weights().items():
        assert torch.equal(weight, whole.weights()[name]), name


def test_a_run_on_data_without_pairs_is_refused(tmp_path: Path) -> None:
    """Chats of one answer each are none."""
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
        for n in range(30)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"none is a preference pair, .*name another objective"):
        train(tmp_path, "r", f"data.path={tmp_path / 'chats.jsonl'}")


def test_pairs_are_not_streamed(tmp_path: Path) -> None:
    """A stream cuts them."""
    with pytest.raises(DataError, match=r'data\.packing = "stream": .*"best-fit"'):
        train(tmp_path, "r", "data.packing=stream")
