"""Adapters in a run: applied, trained, saved, resumed, merged for `model/`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import llmx
from llmx import PluginError

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution whose adapter is the right LoRA of the kit's tests, and one that cannot be merged."""
    site = tmp_path / "site"
    info = site / "acme_lora-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lora\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmx]\nacme = acme_lora\n")
    (site / "acme_code.py").write_text(
        (HERE / "testing" / "faults" / "adapter.py").read_text()
        + "\n\nclass Unmergeable(Lora):\n    def merge(self, model):\n        return {}['gone']\n"
    )
    (site / "acme_lora.py").write_text(
        "from llmx import Component, hookimpl\n@hookimpl\ndef llmx_adapters():\n"
        "    from acme_code import LoraOptions\n"
        "    return [Component(name=n, target=f'acme_code:{t}', options=LoraOptions)"
        " for n, t in (('low', 'Lora'), ('stuck', 'Unmergeable'))]\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.mark.usefixtures("site")
def test_an_adapter_trains_resumes_and_is_merged(small: list[str], tmp_path: Path) -> None:
    """The base stays frozen until the export, whose names are the base's; killed and resumed it ends the same."""
    longer = [*small, "train.steps=6", "checkpoint.every=3"]
    given = {"tokenizer": "char", "adapter": ["low"], "logger": ["jsonl"]}
    through = llmx.run(overrides=longer, out=tmp_path / "through", **given)
    hooks = tmp_path / "stop.py"
    hooks.write_text(
        "from llmx import hookimpl\n@hookimpl\ndef llmx_after_checkpoint(run):\n"
        "    if run.state.step == 3: run.stop('here')\n"
    )
    llmx.run(overrides=longer, out=tmp_path / "r", hooks=[str(hooks)], **given)
    resumed = llmx.run(tmp_path / "r", resume=True)
    assert resumed.state.step == 6
    assert all(torch.equal(a, b) for a, b in zip(through.weights().values(), resumed.weights().values(), strict=True))
    trained = [name for name, each in through.module.named_parameters() if each.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    exported = load_file(tmp_path / "through" / "model" / "model.safetensors")
    plain = llmx.run(overrides=[*small, "train.steps=1"], tokenizer="char", out=tmp_path / "plain")
    assert exported.keys() == plain.weights().keys()
    merged = llmx.load(tmp_path / "through").model
    ids = torch.arange(12)[None]
    through.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids), through.model(ids), atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("site")
def test_an_adapter_that_cannot_be_merged_is_named(small: list[str], tmp_path: Path) -> None:
    """After hours of training the message must say whose fault it is; the checkpoints are there."""
    with pytest.raises(PluginError, match=r"adapter 'stuck' of acme-lora: .*acme_code\.py:\d+: KeyError: 'gone'"):
        llmx.run(overrides=small, tokenizer="char", adapter=["stuck"], out=tmp_path / "r")
    assert list((tmp_path / "r" / "checkpoints").iterdir())
