"""If these fail, an adapter computes something else than the one who trained it saw, or a broken one is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dmpo
from dmpo.models import load_model, save_model
from dmpo.models.adapters import load_adapter
from dmpo.models.llada_layout import llada_to_llama_name
from dmpo.models.lora import add_lora
from tests.models.adapter_files import HEAD, LINEAR, LLADA, merged_by_hand, write_adapter
from tests.tiny_models import plain_checkpoint, tiny, tokens


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        # Patterns speak LLaDA's names; here they cover all: ff_out must find the down projection.
        ({"lora_alpha": 99, "alpha_pattern": {r"blocks\.\d+\.(attn_out|._proj)": 6, "ff_proj|up_proj|ff_out": 6}}, 3.0),
        ({"r": 99, "rank_pattern": {r".*": 2}}, 3.0),
    ],
)
def test_lladas_names(tmp_path: Path, fields: dict[str, Any], scale: float) -> None:
    """Every linear layer of the blocks, `ff_out` included; the head, of the same name, is left alone."""
    weights, ids = write_adapter(tmp_path, LINEAR, **fields), tokens(2, 9, 512)
    model = load_adapter(load_model(LLADA), tmp_path)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    expected = merged_by_hand(load_model(LLADA), weights, scale)(ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-4)
    with model.disable_adapter():
        plain = load_model(LLADA)(ids).logits
        assert torch.equal(model(input_ids=ids).logits, plain)
    assert (expected - plain).abs().max() > 1


def test_some_layers_and_gradients(tmp_path: Path) -> None:
    """Layers 0 and 2 alone: the weights say where the adapter sits. Trainable, and saved under our own names."""
    chosen = [module for module in LINEAR if module.endswith(("0.ff_out", "2.ff_out", "2.q_proj"))]
    write_adapter(tmp_path, chosen, layers_to_transform=[0, 2], layers_pattern="blocks")
    model = dmpo.load_adapter(load_model(LLADA), tmp_path, trainable=True)
    adapted = {name.partition(".lora_A")[0] for name, p in model.named_parameters() if p.requires_grad}
    own = {f"base_model.model.model.layers.{name}" for name in ("0.mlp.down_proj", "2.mlp.down_proj")}
    assert {name for name in adapted if "lora_B" not in name} == own | {
        "base_model.model.model.layers.2.self_attn.q_proj"
    }
    model.save_pretrained(str(tmp_path / "again"), save_embedding_layers=False)
    again = load_adapter(load_model(LLADA), tmp_path / "again")
    ids = tokens(1, 9, 512)
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_our_own_adapters_go_through_peft_and_back(tmp_path: Path, kind: str) -> None:
    """As a run saves them; with the base's path, so that neither peft's users nor `dmpo merge` need to look for it."""
    plain_checkpoint(tmp_path / "base", kind)
    model = add_lora(load_model(tmp_path / "base", mask_id=3), rank=2, alpha=4, dropout=0.0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())
    ids = tokens(2, 6)
    for load in (peft.PeftModel.from_pretrained, load_adapter):
        base = load_model(config["base_model_name_or_path"], mask_id=3)
        assert torch.equal(load(base, tmp_path / "adapter")(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_base_keeps_the_name_it_was_asked_for_by() -> None:
    assert load_model("sudoku-tiny").name_or_path == "sudoku-tiny"


def test_the_head_is_refused_by_name(tmp_path: Path) -> None:
    write_adapter(tmp_path, [LINEAR[0], HEAD])
    with pytest.raises(ValueError, match=r"model\.transformer\.ff_out\.lora_A\.weight.*dmpo merge"):
        load_adapter(load_model(LLADA), tmp_path)


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_tied_embeddings_are_not_torn_apart(tmp_path: Path, module: str) -> None:
    from dmpo.models.adapters import attach_adapter, read_adapter

    config = peft.LoraConfig(r=2, modules_to_save=[module.rpartition(".")[2]], target_modules=["q_proj"])
    peft.get_peft_model(tiny(), config).save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    save_model(tiny(tie_embeddings=True), tmp_path / "base")
    with pytest.raises(ValueError, match=f"{module}.*ties"):
        attach_adapter(load_model(tmp_path / "base"), read_adapter(tmp_path / "adapter"))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    weights = write_adapter(tmp_path, LINEAR[:2])
    first = next(iter(weights))

    def error_for(changed: dict[str, Tensor]) -> str:
        save_file(changed, tmp_path / "adapter_model.safetensors")
        model = load_model(LLADA)
        with pytest.raises(ValueError) as error:
            load_adapter(model, tmp_path)
        assert not any("lora" in name or "base_layer" in name for name, _ in model.named_modules())
        return str(error.value)

    assert f"lacks {first}" in error_for({name: weight for name, weight in weights.items() if name != first})
    assert "modules that the model lacks: " + first.replace("blocks.0", "blocks.7") in error_for(
        {name.replace("blocks.0", "blocks.7"): weight for name, weight in weights.items()}
    )
    stray = "base_model.model.model.transformer.blocks.0.ff_proj.lora_C.weight"
    assert f"do not belong to its adapter_config.json: {stray}" in error_for(weights | {stray: torch.zeros(2, 2)})
    assert "must start with 'base_model.model.'" in error_for({"q_proj.lora_A.weight": torch.zeros(2, 64)})
    assert f"{first} has shape (2, 63)" in error_for(weights | {first: torch.zeros(2, 63)})
    assert "no weights" in error_for({})
    # The same module under both of its names.
    assert "under two names" in error_for(weights | {llada_to_llama_name(first): weights[first].clone()})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base weights"),
        ({"bias": "lora_only"}, "bias='lora_only' is not supported"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"lora_alpha": "8"}, "lora_alpha must be a positive number, got '8'"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_adapter(tmp_path, LINEAR[:2], **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(load_model(LLADA), tmp_path)


def test_files_that_are_missing_broken_or_pickled(tmp_path: Path) -> None:
    model = load_model(LLADA)
    write_adapter(tmp_path, LINEAR[:2])
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is truncated"):
        load_adapter(model, tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors does not exist"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(ValueError, match=r"pickled adapter \(adapter_model\.bin\)"):
        load_adapter(model, tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json does not exist"):
        load_adapter(model, LLADA)
