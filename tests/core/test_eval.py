"""`llmx eval`: losses against plain loops, a run's own figures, and tasks against the harness's own model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch.nn import functional as F

import llmx
from llmx.cli import cli


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)])


def figures(*arguments: object) -> Any:
    done = evaluate(*arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_a_run_is_measured_on_what_it_held_out(char_run: Path) -> None:
    """The default is the figure that the run itself ended with."""
    rows = [json.loads(line) for line in (char_run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "val/loss" in row][-1]
    found = figures(char_run)["topics"]
    assert found["loss"] == pytest.approx(last["val/loss"], abs=1e-4)
    assert found["bits_per_byte"] == pytest.approx(last["val/bits_per_byte"], abs=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_perplexity_is_that_of_transformers(llama: Path, tmp_path: Path) -> None:
    """Each text by itself: the sum over a plain loop of transformers, per token and per byte; per source and in all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = {"a": ["The first text is short.", "汉字 take three bytes each"], "b": ["Other words, of another file."]}
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(llama).eval(), AutoTokenizer.from_pretrained(llama)
    nats: dict[str, list[float]] = {}
    for name, lines in texts.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        for line in lines:
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(line, add_special_tokens=False)["input_ids"],
                                 tokenizer.eos_token_id]])  # fmt: skip
            with torch.no_grad():
                logits = theirs(ids).logits[0, :-1]
            nats.setdefault(name, []).extend(F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist())
    found = figures(llama, "--data", tmp_path / "a.jsonl", "--data", tmp_path / "b.jsonl", "data.packing=none")
    for name, expected in (*nats.items(), ("all", [*nats["a"], *nats["b"]])):
        lines = texts["a"] + texts["b"] if name == "all" else texts[name]
        assert found[name]["tokens"] == len(expected)
        assert found[name]["documents"] == len(lines)
        assert found[name]["loss"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
        assert found[name]["perplexity"] == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-4)
        size = sum(len(line.encode()) for line in lines)
        assert found[name]["bits_per_byte"] == pytest.approx(sum(expected) / math.log(2) / size, rel=1e-5)
    packed = figures(llama, "--data", tmp_path / "a.jsonl", "data.packing=best-fit")["a"]
    assert packed["loss"] == pytest.approx(found["a"]["loss"], abs=1e-5)  # documents do not see each other


def test_of_chats_only_the_assistants_tokens_count(llama: Path, tmp_path: Path) -> None:
    """The mean over what the template trains, by transformers' logits; `data.loss_turns` is taken."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = [("user", "Hi"), ("assistant", "Ho!"), ("user", "So?"), ("assistant", "Yes.")]
    messages = [{"role": role, "content": content} for role, content in chat]
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    tokenizer = AutoTokenizer.from_pretrained(llama)
    ids, counted = [], []
    for role, content in chat:
        parts = (f"<|im_start|>{role}!", f"{content}<|im_end|>")
        for part, counts in zip(parts, (False, role == "assistant"), strict=True):
            new = tokenizer(part, add_special_tokens=False)["input_ids"]
            ids += new
            counted += [counts] * len(new)
    theirs = AutoModelForCausalLM.from_pretrained(llama).eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0, :-1]
    each = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    expected = each[torch.tensor(counted[1:])]
    found = figures(llama, "--data", path)["c"]
    assert found["tokens"] == len(expected)
    assert found["loss"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert figures(llama, "--data", path, "data.loss_turns=last")["c"]["tokens"] < len(expected)


def test_packed_weights_and_adapters_are_measured(llama: Path, given: list[str], tmp_path: Path) -> None:
    """The loss of int8 weights is near the stored ones' and not the same; an adapter's is that of its merged model."""
    path = tmp_path / "a.txt"
    path.write_text("Some words to be read, and more of them. " * 20)
    plain = figures(llama, "--data", path)["a"]["loss"]
    packed = figures(llama, "--data", path, "--weights", "int8")["a"]["loss"]
    assert packed == pytest.approx(plain, abs=0.02)
    assert packed != plain
    options = [*given, f"model.pretrained={llama}", "adapter.lora.rank=4", "optimizer.lr=5e-2"]
    run = llmx.run(overrides=options, adapter=["lora"], logger=["jsonl"], out=tmp_path / "r")
    over = figures(llama, "--data", path, "--adapter", run.folder)["a"]["loss"]
    assert over == pytest.approx(figures(run.folder, "--data", path)["a"]["loss"], abs=1e-4)
    assert over < plain - 0.1


def test_what_cannot_be_measured_is_told(llama: Path, char_run: Path, tmp_path: Path) -> None:
    """A line each: no data, chats for a model of plain text, options for something else, no such task."""
    path = tmp_path / "c.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}')
    cases = [
        ((llama,), "is no run, which would have held-out documents: give --data PATH"),
        ((llama, "data.held_out=0.5"), "is no run, which would have held-out documents: give --data PATH"),
        ((char_run, "model.norm_eps=0.5"), "model.norm_eps=0.5: would change nothing: only data.* and objective.*"),
        ((char_run, "--data", path), "c: holds chats, and the model was trained on plain text"),
        ((char_run, "--data", tmp_path / "none.txt"), "none.txt"),
        ((char_run, "--limit", "3"), "are for --tasks: leave them out"),
        ((char_run, "--tasks", "x", "--tokens", "3"), "--data and --tokens: are for a loss"),
        ((char_run, "--tasks", "x", "data.zzz=1", "nonsense"), "'data.zzz=1': is for a loss, and --tasks takes none"),
        ((char_run, "--tasks", "x", "nonsense"), "'nonsense': is for a loss"),
        ((char_run, "nonsense"), "nonsense"),
        ((char_run, "--tasks", " , "), "--tasks: names no task"),
        ((char_run, "--tasks", ""), "--tasks: names no task"),
        ((char_run, "--tasks", "x", "--include-path", "nodir"), "--include-path nodir: no such folder"),
        ((llama, "--data", path, "objective.name=dpo"), "compares pairs of answers"),
    ]
    for arguments, message in cases:
        error = evaluate(*arguments).exception
        assert isinstance(error, llmx.RecipeError), (arguments, error)
        assert message in str(error)


def test_documents_are_those_that_were_read(llama: Path, tmp_path: Path) -> None:
    """All of a source that is read whole; of a part nobody knows, for its rows begin and end anywhere."""
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"Text {n} of many. " * 9}) + "\n" for n in range(30))
    )
    assert figures(llama, "--data", tmp_path / "a.jsonl")["a"]["documents"] == 30
    assert figures(llama, "--data", tmp_path / "a.jsonl", "--tokens", 10**6)["a"]["documents"] == 30
    assert figures(llama, "--data", tmp_path / "a.jsonl", "--tokens", 200)["a"]["documents"] is None
    assert evaluate(llama, "--data", tmp_path / "a.jsonl", "--tokens", 200).stdout.splitlines()[1].endswith("  -")


# --- tasks ----------------------------------------------------------------------------------------------------------

CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWER = """
task: own_answer
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks on a file of questions."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"question": f"The {thing} is", "choices": [" red", " a long way off", " 3"], "label": number % 3}
        for number, thing in enumerate(["sky", "road", "sum", "wall", "sea", "number two", "lawn"])
    ]
    data = tmp_path / "q.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("answer", ANSWER)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # the harness and its packages warn of themselves
def test_scores_are_those_of_the_harness_own_model(llama: Path) -> None:
    """Log-probabilities, greedy marks, whole texts longer than the context, and greedy answers, as by HFLM."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from llmx.evaluation.harness import HarnessModel

    loaded = llmx.load(llama)
    theirs = HFLM(pretrained=str(llama), device="cpu", dtype="float32", batch_size=4, add_bos_token=True)
    ours = HarnessModel(loaded, None)
    pairs = [("The sky is", " blue"), ("The sky is ", "far"), ("", "So"), ("x" * 150, " end of it"), ("a", "b" * 20)]

    def asked(kind: str, arguments: list[Any]) -> list[Instance]:
        return [Instance(request_type=kind, doc={}, arguments=each, idx=n) for n, each in enumerate(arguments)]

    for own, other in zip(
        ours.loglikelihood(asked("loglikelihood", pairs)), theirs.loglikelihood(asked("loglikelihood", pairs)),
        strict=True,
    ):  # fmt: skip
        assert own[0] == pytest.approx(other[0], abs=1e-3)
        assert own[1] == other[1]
    whole = asked("loglikelihood_rolling", [("A text longer than the context. " * 12,), ("Short.",)])
    theirs.add_bos_token = False  # it puts the prefix before a text by itself, and would predict a second one
    expected = theirs.loglikelihood_rolling(whole)
    theirs.add_bos_token = True
    assert ours.loglikelihood_rolling(whole) == pytest.approx(expected, abs=1e-2)
    until = asked("generate_until", [("The sky", {"until": ["Q"], "max_gen_toks": 8, "do_sample": False})] * 2)
    assert ours.generate_until(until) == theirs.generate_until(until)


@pytest.mark.filterwarnings("ignore")
def test_tasks_of_ones_own_run(llama: Path, tasks: Path) -> None:
    """The command gives the harness's figures; a task nobody knows, and a chat of a plain model, are a line."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = figures(llama, "--tasks", "own_choice,own_answer", "--include-path", tasks)
    theirs = HFLM(pretrained=str(llama), device="cpu", dtype="float32", add_bos_token=True)
    expected = lm_eval.simple_evaluate(
        model=theirs, tasks=["own_choice", "own_answer"], task_manager=TaskManager(include_path=str(tasks)),
        bootstrap_iters=0,
    )["results"]  # fmt: skip
    assert found["own_choice"]["acc"] == expected["own_choice"]["acc,none"]
    assert found["own_choice"]["acc_norm"] == expected["own_choice"]["acc_norm,none"]
    assert found["own_answer"]["exact_match"] == expected["own_answer"]["exact_match,none"]
    chats = figures(llama, "--tasks", "own_choice", "--include-path", tasks, "--chat", "--limit", "3")
    assert 0 <= chats["own_choice"]["acc"] <= 1
    error = evaluate(llama, "--tasks", "no_such_task", "--include-path", tasks).exception
    assert "--tasks no_such_task: no such task" in str(error)


@pytest.mark.filterwarnings("ignore")
def test_what_is_wrong_with_a_task_is_a_line(
    llama: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It names the task and gives the harness's words; broken files are told, and git is not asked."""
    choice = (tasks / "choice.yaml").read_text()
    wrong = {
        "undefined": ("{{question}}", "{{nothing.here}}"),
        "split": ("test_split: test", "test_split: nope"),
        "metric": ("{metric: acc}", "{metric: no_such_metric}"),
    }
    for name, change in wrong.items():
        (tasks / f"{name}.yaml").write_text(choice.replace("own_choice", name).replace(*change))
    (tasks / "broken.yaml").write_text("task: [")
    (tasks / "_base.yaml").write_text("output_type: generate_until")
    cases = {
        ("undefined",): "UndefinedError: 'nothing' is undefined",
        ("split",): "KeyError: 'nope'",
        ("metric",): "KeyError",
        ("own_choice", "--shots", "50"): "Sample larger than population",
    }
    for given, words in cases.items():
        error = evaluate(llama, "--include-path", tasks, "--tasks", *given).exception
        assert isinstance(error, llmx.LlmxError), (given, error)
        assert str(error).startswith(f"--tasks {given[0]}: lm-eval stopped: "), error
        assert words in str(error)
        assert len(str(error).splitlines()) == 1
    monkeypatch.chdir(tasks)  # which is no repository
    capfd.readouterr()
    done = evaluate(llama, "--include-path", tasks, "--tasks", "own_choice, own_answer", "--limit", 2)
    assert done.exit_code == 0, done.exception
    assert f"llmx: {tasks / 'broken.yaml'}: is no task: " in done.stderr
    assert "_base.yaml" not in done.stderr
    assert "git" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_an_answer_that_a_task_begins_goes_on(llama: Path, tasks: Path) -> None:
    """The template writes what was asked, and the beginning stands after it, open."""
    from llmx.evaluation.harness import HarnessModel
    from llmx.protocols import Message

    text = (tasks / "answer.yaml").read_text().replace("own_answer", "begun") + 'gen_prefix: "It is"\n'
    (tasks / "begun.yaml").write_text(text)
    assert "exact_match" in figures(llama, "--tasks", "begun", "--include-path", tasks, "--chat", "--limit", 2)["begun"]
    loaded = llmx.load(llama)
    assert loaded.template is not None
    asked = "".join(piece.text for piece in loaded.template.pieces([Message("user", "Q")], generate=True))
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "It is"}]
    assert HarnessModel(loaded, None, chat=True).apply_chat_template(chat, False) == f"{asked}It is"
