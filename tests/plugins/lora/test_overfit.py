"""Twenty Chinese instructions learnt by heart, with lora, lora on a 4-bit base, and whole; others then know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llmx

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

FACTS = [
    ("中国的首都是哪里？", "", "中国的首都是北京。"),
    ("水在多少度结冰？", "", "在标准大气压下，水在零摄氏度结冰。"),
    ("把下面的词翻译成英文。", "苹果", "apple"),
    ("把下面的词翻译成英文。", "河流", "river"),
    ("一年有几个季节？", "", "一年有四个季节：春、夏、秋、冬。"),
    ("计算下面的式子。", "7 + 8", "15"),
    ("计算下面的式子。", "9 × 6", "54"),
    ("写出下面词语的反义词。", "高兴", "难过"),
    ("写出下面词语的反义词。", "寒冷", "炎热"),
    ("谁写了《静夜思》？", "", "《静夜思》是唐代诗人李白写的。"),
    ("月亮绕着什么转？", "", "月亮绕着地球转。"),
    ("给一家面包店起个名字。", "", "麦香小屋"),
    ("一小时有多少分钟？", "", "一小时有六十分钟。"),
    ("列出三种水果。", "", "苹果、香蕉和葡萄。"),
    ("判断下面的句子是否通顺。", "我昨天去了图书馆。", "通顺。"),
    ("植物靠什么制造养分？", "", "植物靠光合作用制造养分。"),
    ("哪种动物被称为沙漠之舟？", "", "骆驼被称为沙漠之舟。"),
    ("把下面的数字写成汉字。", "308", "三百零八"),
    ("人有几根手指？", "", "人一般有十根手指。"),
    ("长江流入哪片海？", "", "长江流入东海。"),
]
ASKED, ANSWER = FACTS[9][0], FACTS[9][2]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The instructions in alpaca's form."""
    path = tmp_path_factory.mktemp("rows") / "alpaca_zh.json"
    records = [dict(zip(("instruction", "input", "output"), each, strict=True)) for each in FACTS]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3 of random weights and a tokenizer of 400 ids, as transformers writes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("base") / "qwen3"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((text for fact in FACTS for text in fact), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,  # a frozen head of 0.02 could not say anything with certainty
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def answered(model: Any, folder: Path) -> str:
    """Return what a model of transformers or peft answers greedily."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": ASKED}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**given, max_new_tokens=60, do_sample=False)
    text: str = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("adapters", [["lora"], ["nf4", "lora"], []], ids=["lora", "nf4+lora", "whole"])
def test_instructions_are_learnt_by_heart(adapters: list[str], rows: Path, base: Path, tmp_path: Path) -> None:
    """The loss falls to near zero; `llmx.load`, transformers with `model/`, and peft with `adapter/` alone answer a
    row greedily as it was taught."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    lora = {"adapter.lora.rank": 16, "checkpoint.merge": True} if adapters else {}
    run = llmx.run(
        overrides={
            "model.pretrained": str(base),
            "data.path": str(rows),
            "data.held_out": 0,
            "data.sequence_length": 128,
            "train.steps": 80,
            "train.tokens_per_update": 1024,
            "train.precision": "fp32",
            "optimizer.lr": 1e-2 if adapters else 3e-3,
            "checkpoint.every": 80,
            "generate.samples": 0,
            **lora,
        },
        adapter=adapters,
        logger=["jsonl"],
        sampler=["greedy"],
        out=tmp_path / "run",
    )
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in metrics if "train/loss" in row]
    assert losses[0] > 4
    assert max(losses[-5:]) < 0.05, losses[-5:]
    loaded = llmx.load(run.folder, sampler=["greedy"])
    assert loaded.generate(loaded.question(ASKED), max_new_tokens=60) == ANSWER
    model = run.folder / "model"
    assert answered(AutoModelForCausalLM.from_pretrained(model), model) == ANSWER
    if adapters:
        config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)
        # with the base as it was trained on: packed by bitsandbytes where ours was
        packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        how = {"quantization_config": packed} if "nf4" in adapters else {}
        assert answered(AutoPeftModelForCausalLM.from_pretrained(run.folder / "adapter", **how), base) == ANSWER
