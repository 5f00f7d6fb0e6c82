"""`llmx.Trainer`: a run from names and objects, trained again and again, asked, saved and gone on with."""
# ruff: noqa: ARG001, ARG005  # what an argument is called says what the object is

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

import llmx
import llmx.interactive
from llmx.protocols import IGNORE, Batch, Document, Message

TEXTS = ["人工智能正在改变世界。", "机器学习是人工智能的一个分支。", "深度学习使用神经网络。", "语言模型预测下一个词。"]
CHATS = [
    [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}],
    [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}],
]
SMALL = {
    "model.dim": 32,
    "model.layers": 2,
    "model.heads": 2,
    "model.kv_heads": 1,
    "model.mlp_dim": 64,
    "data.sequence_length": 32,
    "train.precision": "fp32",
    "train.device": "cpu",
    "logger": ["jsonl"],
}
"""A model of 28 thousand parameters, which learns a few sentences in seconds."""

Make = Callable[..., llmx.Trainer]


@pytest.fixture
def make() -> Make:
    """Make a trainer of the small model on the texts, or on what is said instead."""

    def trainer(model: Any = "qwen3", data: Any = TEXTS, **arguments: Any) -> llmx.Trainer:
        overrides = SMALL if model == "qwen3" else {k: v for k, v in SMALL.items() if not k.startswith("model.")}
        return llmx.Trainer(model, data, overrides={**overrides, **arguments.pop("overrides", {})}, **arguments)

    return trainer


def losses(trainer: llmx.Trainer) -> list[float]:
    """Return the training losses that the run kept."""
    rows = map(json.loads, (trainer.folder / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


class Tiny(nn.Module):
    """A model of one's own that keeps the contract: it looks at one token at a time."""

    context_length = 64
    tied_names: Sequence[str] = ()

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embed = nn.Embedding(vocab_size, 32)
        self.block = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, vocab_size, bias=False)

    def hidden(self, ids_BT: Tensor, *, cache: Any = None, **_: Any) -> Tensor:
        if cache is not None:
            cache.length += ids_BT.shape[1]
        return self.block(self.embed(ids_BT))

    def forward(self, ids_BT: Tensor, **given: Any) -> Tensor:
        return self.head(self.hidden(ids_BT, **given))

    def head_weight(self) -> Tensor:
        return self.head.weight

    def new_cache(self, batch_size: int, length: int) -> Any:
        return attrs.make_class("Cache", {"length": attrs.field(default=0)})()

    def blocks(self) -> Sequence[nn.Module]:
        return [self.block]

    def roles(self) -> dict[str, str]:
        return {n: "bias" if n.endswith("bias") else n.partition(".")[0].replace("embed", "embedding").replace(
            "block", "hidden") for n, _ in self.named_parameters()}  # fmt: skip

    def flops_per_token(self, sequence_length: int) -> int:
        return 6 * sum(p.numel() for p in self.parameters())

    def to_config(self) -> dict[str, Any]:
        return {"model_type": "tiny-of-ones-own", "vocab_size": self.vocab_size}


class Letters:
    """A tokenizer of one's own: a byte is an id, and 256 ends a text."""

    vocab_size, bos_id, eos_id = 257, None, 256

    def special_id(self, token: str) -> int | None:
        return None

    def encode_markup(self, text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def save(self, folder: Path) -> None:
        (folder / "letters.txt").write_text("bytes")


class Alphabet:
    """A dataset of one's own."""

    def __iter__(self) -> Iterator[Document]:
        yield Document("abc" * 60, "here")

    def fingerprint(self) -> str:
        return "abc"


# --- the loop -------------------------------------------------------------------------------------------------------


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in the docstring of `llmx.interactive` runs as it stands, and learns its texts."""
    monkeypatch.chdir(tmp_path)
    code = textwrap.dedent((llmx.interactive.__doc__ or "").partition("\n\n")[2])
    assert "llmx.Trainer(" in code
    told: list[Any] = []
    exec(code, {"print": told.append})
    measured, text, stats = told
    assert stats["step"] >= 20
    assert stats["loss"] < 1.5
    assert measured["tokens"] == 20 + 1  # no character begins a text, one ends it
    assert text
    assert llmx.load("my-model").tokenizer.vocab_size == stats["vocabulary"]


def test_a_notebook(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a notebook does: train twice, measure, generate, save, load elsewhere."""
    monkeypatch.chdir(tmp_path)
    trainer = make(optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1e-2))
    before = trainer.evaluate()
    first = trainer.train(epochs=15)
    second = trainer.train(steps=20)
    assert second["step"] == first["step"] + 20
    assert first["epoch"] == pytest.approx(15)
    after = trainer.evaluate()
    assert after["loss"] < 0.3 < 4 < before["loss"]
    assert after["data"] == "training"  # so little is not held out
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    said = trainer.generate("人工智能正", max_new_tokens=20, temperature=0)
    assert said == "在改变世界。"
    assert trainer.generate(["人工智能正", "机器"], max_new_tokens=20, temperature=0) == [
        said,
        "学习是人工智能的一个分支。",
    ]
    assert trainer.save("my-model") == Path("my-model")
    assert llmx.load("my-model", sampler=["greedy"]).generate("人工智能正", max_new_tokens=20) == said
    stats = trainer.stats()
    assert (stats["vocabulary"], stats["context_length"], stats["device"]) == (
        trainer.run.tokenizer.vocab_size,
        256,
        "cpu",
    )
    assert stats["tokens"] == stats["step"] * stats["tokens_per_update"]
    assert stats["loss"] == losses(trainer)[-1]


def test_training_in_pieces_is_training(make: Make) -> None:
    """Three calls move the weights as one call does, bit for bit; the metrics are one run's."""
    whole, pieces = make(), make()
    whole.train(steps=12)
    for steps in (5, 1, 6):
        pieces.train(steps=steps, save_every=2)
    assert pieces.stats()["step"] == 12
    assert losses(pieces) == losses(whole)
    assert len(losses(whole)) == 12
    for a, b in zip(whole.run.module.parameters(), pieces.run.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_epochs_add_up(make: Make) -> None:
    """What an epoch leaves of a step is made up for: five calls of 0.7 epochs read 3.5."""
    trainer = make(
        data=[f"text number {n}, and no other" for n in range(10)], overrides={"train.tokens_per_update": 96}
    )
    per_epoch = trainer.run.train_rows.rows_per_epoch / trainer.run.sizes.rows
    for _ in range(5):
        trainer.train(epochs=0.7)
    assert trainer.stats()["step"] == round(3.5 * per_epoch) != 5 * round(0.7 * per_epoch)


def test_the_recipe_says_how_long(make: Make) -> None:
    """Without a number training goes to the recipe's end, where a falling schedule falls to; then one is needed."""
    trainer = make(scheduler="linear", overrides={"train.steps": 8, "scheduler.warmup_steps": 0})
    trainer.train(steps=4)
    peak = trainer.run.optimizer.param_groups[0]["initial_lr"]
    assert trainer.run.optimizer.param_groups[0]["lr"] == pytest.approx(peak * 5 / 8)
    assert trainer.train()["step"] == 8
    with pytest.raises(llmx.RecipeError, match=r"train: step 8 is the last of the recipe: say epochs= or steps="):
        trainer.train()
    with pytest.raises(llmx.RecipeError, match="keep one of them"):
        trainer.train(steps=1, epochs=1)
    with pytest.raises(llmx.RecipeError, match="steps = 0: must be more than 0"):
        trainer.train(steps=0)


def test_a_run_goes_on_in_another_process(make: Make, tmp_path: Path) -> None:
    """A named folder keeps the run; with the same objects it goes on bit for bit, and says what is missing without."""
    arguments: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "out": tmp_path / "run"}
    whole = make(loss=nn.CrossEntropyLoss())
    whole.train(steps=9)
    make(**arguments, resume=True).train(steps=5)
    again = make(**arguments, resume=True)
    assert again.stats()["step"] == 5
    again.train(steps=4)
    for a, b in zip(whole.run.module.parameters(), again.run.module.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(llmx.RecipeError, match="holds another run"):
        make(**arguments)
    with pytest.raises(
        llmx.PluginError, match=r"objective\.name = 'given:crossentropyloss': was an object of a Python"
    ):
        make(out=tmp_path / "run", resume=True)
    with pytest.raises(llmx.RecipeError, match=r"began with objective\.object = 'torch.*CrossEntropyLoss', not"):
        make(
            loss=nn.CrossEntropyLoss(), out=tmp_path / "run", resume=True, overrides={"objective.object": "other:Loss"}
        )
    done = subprocess.run(
        [sys.executable, "-m", "llmx", "run", str(tmp_path / "run"), "--resume"], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "go on there, with llmx.Trainer" in done.stderr


def test_a_checkpoint_is_gone_back_to(make: Make, tmp_path: Path) -> None:
    """`load` takes a checkpoint with all, a model folder for its weights, and refuses what does not fit."""
    trainer = make(overrides={"checkpoint.keep_last": 9})
    trainer.train(steps=4)
    early = next((trainer.folder / "checkpoints").glob("*04"))
    kept = trainer.save(tmp_path / "model")
    trainer.train(steps=4)
    late = losses(trainer)
    weights = [p.clone() for p in trainer.run.module.parameters()]
    trainer.load(early)
    assert trainer.stats()["step"] == 4
    trainer.train(steps=4)
    assert losses(trainer) == late
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.run.module.parameters(), strict=True))
    other = make(overrides={"train.seed": 7})
    other.load(kept)
    trainer.load(early)
    assert other.evaluate()["loss"] == trainer.evaluate()["loss"]
    with pytest.raises(llmx.CheckpointError, match="its tokenizer is not the run's"):
        make(data=["other letters"]).load(kept)
    with pytest.raises(llmx.RecipeError, match="no such folder"):
        trainer.load(tmp_path / "nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(llmx.RecipeError, match="is not empty and holds no model"):
        trainer.save(tmp_path / "full")


def test_an_interrupt_keeps_the_run(make: Make) -> None:
    """SIGINT ends after the step at hand with a checkpoint, and says how to go on; training then goes on."""
    import signal

    def interrupt(run: Any, metrics: dict[str, float]) -> None:
        if metrics["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    trainer = make(callbacks=[interrupt])
    with pytest.raises(llmx.StoppedError, match=r"stopped after step 3 of 10; train\(\) goes on"):
        trainer.train(steps=10)
    assert trainer.train(steps=2)["step"] == 5
    assert len(losses(trainer)) == 5


def test_listeners_keep_what_they_know(make: Make, tmp_path: Path) -> None:
    """A callback's state goes from one call to the next, and a hooks file stays the one module that it was."""
    hooks = tmp_path / "count.py"
    hooks.write_text(
        "import llmx\nseen = []\n@llmx.hookimpl\ndef llmx_after_step(run, metrics):\n    seen.append(metrics['step'])\n"
        "    metrics['seen'] = len(seen)\n"
    )
    whole, pieces = (make(callbacks=["ema"], hooks=[str(hooks)]) for _ in range(2))
    whole.train(steps=6)
    pieces.train(steps=2)
    pieces.train(steps=4)
    rows = [json.loads(line) for line in (pieces.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["seen"] for row in rows] == [1, 2, 3, 4, 5, 6]
    one, other = (llmx.load(each.save()).model for each in (whole, pieces))  # the averages are what is exported
    for a, b, last in zip(one.parameters(), other.parameters(), whole.run.module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, last)


def test_a_model_is_adapted(make: Make, tmp_path: Path) -> None:
    """A folder that was saved is a base to go on from, with an adapter by name; weights alone do not fit it then."""
    base = make()
    base.train(steps=3)
    folder = base.save(tmp_path / "base")
    trainer = llmx.Trainer(folder, TEXTS, adapter=["lora"], overrides={"data.sequence_length": 32, "logger": []})
    assert trainer.run.recipe.tokenizer.folder is not None
    assert trainer.stats()["trained_parameters"] < trainer.stats()["parameters"] / 2
    trainer.train(steps=3)
    trainer.save(tmp_path / "tuned")
    with pytest.raises(llmx.RecipeError, match="the run has adapters: give a checkpoint"):
        trainer.load(folder)
    trainer.load(trainer.folder)


def test_a_temporary_folder_goes_with_its_trainer(make: Make) -> None:
    """Without `out` nothing is left behind."""
    trainer = make()
    trainer.train(steps=1)
    folder = trainer.folder
    assert (folder / "recipe.toml").exists()
    trainer.run.hooks = None  # type: ignore[assignment]  # it and its listeners know each other
    del trainer
    import gc

    gc.collect()
    assert not folder.exists()


def test_off_the_main_thread(make: Make) -> None:
    """A notebook's server may run cells in threads, where no signal can be caught."""
    import threading

    trainer, found = make(), []
    thread = threading.Thread(target=lambda: found.append(trainer.train(steps=2)))
    thread.start()
    thread.join()
    assert found[0]["step"] == 2


# --- objects of one's own -------------------------------------------------------------------------------------------


def test_every_part_an_object(make: Make, tmp_path: Path) -> None:
    """A model, a tokenizer, documents, a loss, an optimizer, a schedule and a callback of one's own make a run."""
    torch.manual_seed(0)
    model, seen = Tiny(257), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    trainer = make(
        model,
        Alphabet(),
        tokenizer=Letters(),
        loss=lambda logits, labels: F.cross_entropy(logits, labels),
        optimizer=optimizer,
        scheduler=lambda step: 1 / (1 + step),
        callbacks=[lambda run, metrics: seen.append(metrics["lr"])],
    )
    trainer.train(steps=6)
    assert trainer.run.model is model
    assert trainer.run.optimizer is optimizer
    assert seen == pytest.approx([0.5 / (1 + step) for step in range(6)])
    assert losses(trainer)[-1] < losses(trainer)[0] - 1
    trainer.train(steps=30)
    assert trainer.generate("a", max_new_tokens=5, temperature=0) == "bcabc"
    folder = trainer.save(tmp_path / "own")
    trainer.load(folder)
    with pytest.raises(llmx.PluginError, match=r"model = 'given:tiny': was an object of a Python program"):
        llmx.load(folder)


def test_a_model_made_for_the_vocabulary(make: Make) -> None:
    """A function of the vocabulary's size makes the model, with the run's seed."""
    a, b = make(Tiny), make(lambda vocab_size: Tiny(vocab_size))
    assert a.run.model.vocab_size == a.run.tokenizer.vocab_size
    assert torch.equal(a.run.model.embed.weight, b.run.model.embed.weight)  # type: ignore[attr-defined]


def plain_loop(trainer: llmx.Trainer, optimizer: Any, schedule: Any, steps: int) -> list[float]:
    """Train a copy of the trainer's model as torch's manual says, and return the losses."""
    import copy

    model, found = copy.deepcopy(trainer.run.module), []
    moves = optimizer(model)
    scheduler = schedule(moves) if schedule else None
    sizes = trainer.run.sizes
    for step in range(steps):
        batch = trainer.run.train_rows.batch(step * sizes.rows, sizes.rows)
        logits = model(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORE)
        moves.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        moves.step()
        if scheduler:
            scheduler.step()
        found.append(loss.item())
    return found


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Two groups with rates of their own."""
    biases, others = [p for p in model.parameters() if p.ndim < 2], [p for p in model.parameters() if p.ndim > 1]
    return torch.optim.AdamW([{"params": others, "lr": 2e-2}, {"params": biases, "lr": 1e-3}])


SCHEDULERS: dict[str, Callable[[Any], Any] | None] = {
    "none": None,
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-3),
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, max_lr=[3e-2, 1e-3], total_steps=20, cycle_momentum=False
    ),
    "warm-up": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.2, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.8)],
        [4],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_optimizers_and_schedulers_of_torch(make: Make, name: str) -> None:
    """The losses are those of a plain loop with the same optimizer, scheduler and loss, over calls of `train`."""
    trainer = make(loss=nn.CrossEntropyLoss(), optimizer=adam, scheduler=SCHEDULERS[name])
    if SCHEDULERS[name] is None:
        trainer = make(loss=nn.CrossEntropyLoss(), optimizer=adam, scheduler=lambda step: 1.0)
    expected = plain_loop(trainer, adam, SCHEDULERS[name], 9)
    for steps in (4, 5):
        trainer.train(steps=steps)
    assert losses(trainer) == pytest.approx(expected, rel=1e-5)


def test_a_scheduler_that_holds_its_optimizer(make: Make) -> None:
    """`CosineAnnealingLR(optimizer, …)`, as the manual writes it, gives the same rates, and stays where it was."""
    torch.manual_seed(0)
    model = Tiny(400)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.2, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 8)],
        [3],
    )
    rates: list[float] = []
    callback = lambda run, metrics: rates.append(metrics["lr"])  # noqa: E731
    make(model, optimizer=optimizer, scheduler=scheduler, callbacks=[callback]).train(steps=6)
    assert scheduler.last_epoch == 0
    again = make(model, optimizer=optimizer, callbacks=[callback])  # the rates of that run are no peak of this one
    again.train(steps=1)
    assert rates.pop() == pytest.approx(0.1)
    expected = []
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    again = lr_scheduler.SequentialLR(
        other, [lr_scheduler.LinearLR(other, 0.2, total_iters=3), lr_scheduler.CosineAnnealingLR(other, 8)], [3]
    )
    for _ in range(6):
        expected.append(other.param_groups[0]["lr"])
        other.step()
        again.step()
    assert rates == pytest.approx(expected)


def own_loss(model: Any, batch: Batch) -> Tensor:
    """The sum, by the contract."""
    logits = model(batch.ids_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
    return F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORE, reduction="sum")


class Weighted(nn.Module):
    """A loss module of the seed's form: outputs and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(ignore_index=0)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.inner(outputs, targets)


@pytest.mark.parametrize(
    "loss",
    [own_loss, nn.CrossEntropyLoss(ignore_index=0), nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss,
     Weighted(), nn.CrossEntropyLoss(reduction="none"),
     lambda logits, labels: F.cross_entropy(logits, labels), "causal-lm"],
    ids=["model-batch", "mean", "sum", "class", "module", "none", "function", "name"],
)  # fmt: skip
def test_every_form_of_a_loss_is_the_same_loss(make: Make, loss: Any) -> None:
    """Whatever form a cross-entropy is given in, its training is that of the built-in one, micro-batches too."""
    built_in = make(data=TEXTS * 3, overrides={"train.tokens_per_update": 64})
    own = make(data=TEXTS * 3, loss=loss, overrides={"train.tokens_per_update": 64, "train.micro_batch": 1})
    built_in.train(steps=4)
    own.train(steps=4)
    assert losses(own) == pytest.approx(losses(built_in), rel=1e-4)
    assert own.evaluate()["loss"] == pytest.approx(built_in.evaluate()["loss"], rel=1e-4)


def test_chats_and_records(make: Make) -> None:
    """Chats, messages, records and texts in one list; a chat is answered by the template that trained it."""
    data = [*CHATS, (Message("user", "How?"), Message("assistant", "So.")), {"query": "What?", "response": "That."}]
    trainer = make(data=data, optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1e-2))
    trainer.train(epochs=50)
    asked = [("Who?", "Me."), ("Where?", "Here."), ("How?", "So."), ("What?", "That.")]
    for question, reply in asked:
        assert trainer.generate([{"role": "user", "content": question}], max_new_tokens=9, temperature=0) == reply
    assert trainer.evaluate(CHATS)["loss"] < 0.2
    assert trainer.evaluate(CHATS)["tokens"] < trainer.evaluate()["tokens"]


def test_preference_pairs(make: Make) -> None:
    """An objective that counts pairs is trained and measured by them, and has no perplexity."""
    data = [{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}, {"prompt": "Ho", "chosen": "Ya", "rejected": "Nein"}]
    trainer = make(data=data, loss="dpo", overrides={"data.sequence_length": 64})
    trainer.train(steps=3)
    found = trainer.evaluate()
    assert found["loss"] < math.log(2)  # what a model that prefers neither has
    assert (found["tokens"], found["perplexity"], found["bits_per_byte"]) == (2, None, None)


def test_evaluating_other_data(make: Make, tmp_path: Path) -> None:
    """Texts, a path and a Dataset give the loss that a plain computation gives; the run's own numbers stay."""
    trainer = make()
    trainer.train(steps=2)
    (tmp_path / "more.txt").write_text(TEXTS[0], encoding="utf-8")
    found = [
        trainer.evaluate(given) for given in (TEXTS[:1], tmp_path / "more.txt", {"path": str(tmp_path / "more.txt")})
    ]
    assert found[0]["loss"] == found[1]["loss"] == found[2]["loss"]
    assert found[0]["data"] == "given"
    tokenizer = trainer.run.tokenizer
    ids = torch.tensor([i for i in (tokenizer.bos_id, *tokenizer.encode(TEXTS[0]), tokenizer.eos_id) if i is not None])
    with torch.no_grad():
        expected = F.cross_entropy(trainer.run.model(ids[None, :-1])[0], ids[1:])
    assert found[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found[0]["tokens"] == len(ids) - 1
    assert trainer.stats()["step"] == 2
    assert trainer.run.state.best_loss is None
    assert trainer.run.module.training
    brief = make(overrides={"eval.tokens": 1})  # bounds the run's own measurements, not of what is given
    assert brief.evaluate(TEXTS)["tokens"] == trainer.evaluate()["tokens"] > brief.evaluate()["tokens"]


def test_held_out_data_is_measured_where_there_is_some(make: Make, corpus: Path) -> None:
    """On a larger corpus the held-out part is the default, and it is what the run itself measures."""
    trainer = make(data=corpus, tokenizer="char", overrides={"train.tokens_per_update": 128})
    stats = trainer.train(steps=3)
    found = trainer.evaluate()
    assert found["data"] == "held-out"
    assert found["loss"] == stats["best_loss"]


# --- faults ---------------------------------------------------------------------------------------------------------


class NoModel(nn.Module):
    vocab_size = 3


PLATEAU = lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": NoModel()}, r"^model: NoModel lacks context_length, tied_names, hidden, .*llmx\.protocols\.Model$"),
        ({"model": Tiny(12)}, r"^model: Tiny has 12 ids, the tokenizer \d+: give a function of the vocabulary's size"),
        ({"model": 7}, "^model: a int is no nn.Module"),
        ({"model": "qwen9"}, r"model\.name = 'qwen9': no such model; nearest: qwen3"),
        ({"model": lambda vocab_size: None}, "^model: NoneType lacks"),
        ({"tokenizer": object()}, r"^tokenizer: object lacks vocab_size, bos_id, .*llmx\.protocols\.Tokenizer$"),
        ({"data": []}, "^data: holds nothing"),
        ({"data": 3}, "^data: a int holds no texts"),
        ({"data": ["a", 3]}, r"^data\[1\]: is a int, no text, chat or record"),
        ({"data": CHATS[0]}, r"^data\[0\]: is one turn: give a list of chats"),
        ({"data": [{"nothing": "known"}]}, "^data, record 1: "),
        ({"data": [{"text": {1, 2}}]}, "^data: a record cannot be written as JSON"),
        ({"loss": 3}, "^loss: a int cannot be called"),
        ({"loss": lambda model: None}, r"^loss: .*<lambda> takes \(model\): must take \(model, batch\) or"),
        ({"optimizer": 3}, "^optimizer: a int is no torch.optim.Optimizer"),
        ({"optimizer": lambda model: None}, "^optimizer: gave a NoneType"),
        ({"optimizer": lambda model: torch.optim.SGD([*model.parameters()][:1])}, r"^optimizer: lacks \d+ of the \d+"),
        ({"optimizer": lambda model: 1 / 0}, r"optimizer 'lambda' of given: .*test_api\.py:\d+: ZeroDivisionError"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "^optimizer: 1 of its 1 parameters are not"),
        ({"scheduler": 3}, "^scheduler: a int is no function of the step"),
        ({"scheduler": lambda step: "fast"}, "^scheduler: gave a str for step 0"),
        ({"scheduler": PLATEAU}, "^scheduler: ReduceLROnPlateau goes by a metric"),
        ({"callbacks": [3]}, "^callbacks: int has no method marked with @llmx.hookimpl"),
        ({"adapter": [object()]}, "^adapter: object lacks identity, apply, merge"),
        ({"loss": "dpo", "objective": "chat"}, "^objective: is given twice"),
        ({"optimiser": 3}, "^optimiser: no such part; there are model,"),
        ({"resume": True}, "^resume: needs out="),
    ],
)
def test_a_fault_is_one_line(make: Make, arguments: dict[str, Any], message: str) -> None:
    """What an object lacks of its contract, or a name of what there is, is said when the trainer is made."""
    with pytest.raises(llmx.LlmxError, match=message) as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": lambda model, batch: 1.0}, "returned a float: must be a tensor"),
        ({"loss": lambda model, batch: model(batch.ids_BT)}, r"returned a tensor of shape \[.*: must be the sum, one"),
        ({"scheduler": lambda optimizer: 3}, "^scheduler: gave a int: must be a scheduler of torch"),
        (
            {"scheduler": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer)},
            "ReduceLROnPlateau goes by a metric",
        ),
    ],
)
def test_a_fault_in_training_is_one_line(make: Make, arguments: dict[str, Any], message: str) -> None:
    """What only a step can show is said at the first."""
    trainer = make(**arguments)
    with pytest.raises(llmx.RecipeError, match=message) as caught:
        trainer.train(steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["save_every", "eval_every", "log_every"])
def test_how_often_is_at_least_each_step(make: Make, name: str) -> None:
    """0 is no short word for never."""
    trainer = make()
    with pytest.raises(llmx.RecipeError, match=f"^train: {name} = 0: must be 1 or more"):
        trainer.train(steps=1, **{name: 0})


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ([{"role": "user", "content": "Hi"}], {}, "^prompt: is a chat, and the run has no template"),
        ([], {}, "^prompt: give a text, a list of texts, or a chat"),
        ("人", {"temperature": -1.0}, "^temperature = -1.0: must be 0"),
    ],
)
def test_a_prompt_at_fault(make: Make, prompt: Any, arguments: dict[str, Any], message: str) -> None:
    """A prompt that cannot be answered is told in one line."""
    with pytest.raises(llmx.RecipeError, match=message):
        make().generate(prompt, **arguments)
