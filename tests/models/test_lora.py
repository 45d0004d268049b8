"""LoRA must train float32 weights, multiply as narrowly as its base, and be peft's own in a float32 model."""

import copy
from typing import Any

import peft
import pytest
import torch

from dmpo.models.lora import add_lora, lora_target_modules, use_input_dtype
from tests.tiny_models import tiny

IDS = torch.arange(12).view(2, 6) % 10


def adapted(dtype: torch.dtype, *, narrow: bool, **options: Any) -> peft.PeftModel:
    """A tiny model with an adapter that is not zero."""
    torch.manual_seed(0)
    model: Any = tiny()
    model = model.to(dtype)
    options |= {"target_modules": lora_target_modules(model), "init_lora_weights": False}
    config = peft.LoraConfig(r=4, lora_alpha=8, **options)
    found = peft.get_peft_model(model, config)
    return use_input_dtype(found) if narrow else found


def gradients(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    model(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in trained.items() if p.grad is not None}
    assert found.keys() == trained.keys()
    return found


def test_a_float32_model_computes_what_pefts_does() -> None:
    ours, theirs = (gradients(adapted(torch.float32, narrow=narrow)) for narrow in (True, False))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_bfloat16_model_keeps_wide_weights_and_gradients() -> None:
    wide = gradients(adapted(torch.float32, narrow=False))
    found = [gradients(adapted(torch.bfloat16, narrow=narrow)) for narrow in (True, False)]
    assert all(gradient.dtype == torch.float32 for gradient in found[0].values())
    ours, theirs = (
        sum(float((grads[name] - wide[name]).norm() / wide[name].norm()) for name in wide) / len(wide)
        for grads in found
    )
    assert ours < 1.5 * theirs, "the mean error over parameters, beside that of peft's own products"


def test_dora_is_pefts_own() -> None:
    ours, theirs = (gradients(adapted(torch.bfloat16, narrow=narrow, use_dora=True)) for narrow in (True, False))
    assert ours.keys() == theirs.keys()
    assert any("magnitude" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_products_are_as_narrow_as_their_inputs() -> None:
    base: Any = tiny()
    model = add_lora(base.to(torch.bfloat16), rank=4, alpha=8, dropout=0.0)
    seen = []
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for part in (*module.lora_A.values(), *module.lora_B.values()):
                assert part.weight.dtype == torch.float32
                part.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    model(input_ids=IDS)
    assert len(seen) >= 14
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_merged_as_any_adapter_of_peft(dtype: torch.dtype) -> None:
    ours, theirs = (adapted(dtype, narrow=narrow) for narrow in (True, False))
    states = [peft.get_peft_model_state_dict(model) for model in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    merged = [copy.deepcopy(model).merge_and_unload().state_dict() for model in (ours, theirs)]
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[1])


def test_adapters_on_chosen_layers_alone() -> None:
    model = add_lora(tiny(), rank=2, alpha=4, dropout=0.0, targets=["q_proj", "down_proj"])
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert layers == {"q_proj", "down_proj"}
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 4, "of two blocks"


@pytest.mark.parametrize("targets", [["q_prj"], ["q_proj", "lm_head"], ["embed_tokens"], ["layers.0.self_attn.q_proj"]])
def test_a_layer_that_the_blocks_lack_is_refused_with_those_there_are(targets: list[str]) -> None:
    there = "choose from q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or give all-linear"
    with pytest.raises(ValueError, match=f"no linear layer {targets[-1]}; {there}"):
        add_lora(tiny(), rank=2, alpha=4, dropout=0.0, targets=targets)
