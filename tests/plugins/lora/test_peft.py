"""Adapters in PEFT's form: peft opens ours and we open peft's, with equal logits; gradients are peft's too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx import CheckpointError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

CPU = torch.device("cpu")
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "saved": {"modules_to_save": ["lm_head", "model.norm"]},
    "some": {"targets": ["q_proj", "layers.1.mlp.*"]},
    "head": {"targets": ["head", "hidden"]},
}


def logits(model: Any, ids_BT: Tensor) -> Tensor:
    """Return logits in evaluation mode, of a model of either library."""
    model.eval()
    with torch.no_grad():
        found = model(ids_BT)
    return found if isinstance(found, Tensor) else found.logits


def moved(model: Any) -> Any:
    """Move every parameter that is trained away from where it began."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_peft_opens_ours(form: str, llama: Any, build: Any, ids_BT: Tensor, tmp_path: Path) -> None:
    """What `save` writes gives peft the logits of our adapted model, which are not the base's."""
    from peft import PeftModel

    theirs, ours = llama()
    adapter = build("lora", rank=4, alpha=6.0, **FORMS[form])
    model = moved(adapter.apply(ours, CPU))
    adapter.save(tmp_path, model)
    found = logits(PeftModel.from_pretrained(theirs, tmp_path), ids_BT)
    assert float((found - logits(llama()[1], ids_BT)).abs().max()) > 0.01
    torch.testing.assert_close(logits(model, ids_BT), found, atol=1e-5, rtol=1e-5)


def test_a_tied_embedding_that_is_trained_stays_tied(llama: Any, build: Any, ids_BT: Tensor, tmp_path: Path) -> None:
    """The head is the embedding for peft too."""
    from peft import PeftModel

    theirs, ours = llama(tied=True)
    adapter = build("lora", rank=4, modules_to_save=["embed_tokens"])
    model = moved(adapter.apply(ours, CPU))
    adapter.save(tmp_path, model)
    found = logits(PeftModel.from_pretrained(theirs, tmp_path), ids_BT)
    torch.testing.assert_close(logits(model, ids_BT), found, atol=1e-5, rtol=1e-5)
    again = build("lora", pretrained=str(tmp_path)).apply(llama(tied=True)[1], CPU)
    torch.testing.assert_close(logits(again, ids_BT), found, atol=1e-5, rtol=1e-5)
    config(ensure_weight_tying=False)(tmp_path)
    with pytest.raises(CheckpointError, match="trained apart from the head it is tied to"):
        build("lora", pretrained=str(tmp_path)).apply(llama(tied=True)[1], CPU)


@pytest.mark.parametrize("form", ["plain", "rslora", "dora", "saved"])
def test_we_open_pefts(form: str, llama: Any, build: Any, ids_BT: Tensor, tmp_path: Path) -> None:
    """A folder that peft wrote gives peft's logits, and is written again as it was."""
    folder = peft_folder(llama, tmp_path / "peft", form)
    theirs, ours = llama()
    from peft import PeftModel

    wanted = logits(PeftModel.from_pretrained(theirs, folder), ids_BT)
    adapter = build("lora", pretrained=str(folder))
    model = adapter.apply(ours, CPU)
    torch.testing.assert_close(logits(model, ids_BT), wanted, atol=1e-5, rtol=1e-5)
    (tmp_path / "again").mkdir()
    adapter.save(tmp_path / "again", model)
    found = logits(PeftModel.from_pretrained(llama()[0], tmp_path / "again"), ids_BT)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def peft_folder(llama: Any, folder: Path, form: str = "plain", **more: Any) -> Path:
    """Write a folder with peft."""
    from peft import LoraConfig, get_peft_model

    fields = {
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "saved": {"modules_to_save": ["lm_head", "norm"]},
    }.get(form, {})
    config = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **{**fields, **more})
    moved(get_peft_model(llama()[0], config)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dora", [False, True])
def test_a_step_has_pefts_gradients(dora: bool, llama: Any, build: Any, ids_BT: Tensor, tmp_path: Path) -> None:
    """Gradients of every trained parameter are those that peft has."""
    from peft import PeftModel

    folder = peft_folder(llama, tmp_path, use_dora=dora)
    theirs, ours = llama()
    wanted = PeftModel.from_pretrained(theirs, folder, is_trainable=True).train()
    wanted(input_ids=ids_BT).logits.square().mean().backward()
    model = build("lora", pretrained=str(folder)).apply(ours, CPU).train()
    model(ids_BT).square().mean().backward()
    references = {
        name.removeprefix("base_model.model.").replace(".default", ""): each.grad
        for name, each in wanted.named_parameters()
        if each.requires_grad
    }
    found = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
    assert len(found) == 14 * (2 + dora)
    for name, grad in found.items():
        name = name + ".weight" if name.endswith("vector") else name
        torch.testing.assert_close(grad, references[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


Change = Callable[[Path], None]


def config(**values: Any) -> Change:
    """Set fields of the config."""

    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def damaged(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


FAULTS: dict[str, tuple[Change, str]] = {
    "rank": (config(r=8), r"lora_A\.weight has shape \[4, 64\].*ask for \[8, 64\]"),
    "no-rank": (config(r=0), r"adapter_config\.json: r = 0: must be at least 1"),
    "no-alpha": (config(lora_alpha=0), r"lora_alpha = 0\.0: must be more than 0"),
    "all-dropped": (config(lora_dropout=1.0), r"lora_dropout = 1\.0: must be from 0 to less than 1"),
    "kind": (config(peft_type="IA3"), r"peft_type = 'IA3': only LORA"),
    "init": (config(init_lora_weights="pissa"), r"init_lora_weights = 'pissa': is not supported"),
    "patterns": (config(rank_pattern={"q_proj": 8}), r"rank_pattern = .*: is not supported"),
    "dora": (config(use_dora=True), r"lacks model\.layers\.0\.mlp\.down_proj\.lora_magnitude_vector"),
    "lacks-field": (config(r=None), r"adapter_config\.json: "),
    "pickle": (pickled, r"adapter_model\.bin, a pickle"),
    "damaged": (damaged, r"damaged"),
    "nothing": (lambda folder: shutil.rmtree(folder), r"no adapter_config\.json: not an adapter's folder"),
}


@pytest.fixture
def peft_made(llama: Any, tmp_path: Path) -> Path:
    return peft_folder(llama, tmp_path / "made")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_does_not_fit_is_said(
    fault: str, peft_made: Path, llama: Any, build: Any, tmp_path: Path
) -> None:
    """One plain line that names the file and what is wrong with it."""
    change, said = FAULTS[fault]
    folder = shutil.copytree(peft_made, tmp_path / "adapter")
    change(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        build("lora", pretrained=str(folder)).apply(llama()[1], CPU)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_folder_of_another_base_is_said(peft_made: Path, build: Any) -> None:
    """Layers that the model does not have, and a recipe that says otherwise than the folder."""
    from llmx.testing.reference import ReferenceModel, ReferenceOptions

    with torch.device("meta"):
        shallow = ReferenceModel(ReferenceOptions(layers=1), vocab_size=7)
    with pytest.raises(CheckpointError, match=r"no linear layer model\.layers\.1\..*: it belongs to another base"):
        build("lora", pretrained=str(peft_made)).apply(shallow, CPU)
    with pytest.raises(RecipeError, match=r"adapter\.lora\.rank = 8: .*adapter_config\.json has 4"):
        build("lora", pretrained=str(peft_made), rank=8)
    with pytest.raises(RecipeError, match=r"adapter\.lora\.targets: .*says which"):
        build("lora", pretrained=str(peft_made), targets=["q_proj"])
