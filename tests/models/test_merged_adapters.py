"""If these fail, rollouts come from another policy than the trained one, or leave the trained one changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dmpo.models import load_model, save_model
from dmpo.models import merged_adapters as module
from dmpo.models.masked_lm import hidden_states
from dmpo.models.merged_adapters import check_mergeable, merged_adapters, merged_weight, unpacked_weight
from tests.tiny_models import plain_checkpoint, tiny, tokens, with_random_adapters

HALF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}  # half the distance from 1 upwards
TINY = 2.0**-25  # half the smallest number of float16
IDS = tokens(2, 9)


def four_bit_model(folder: Path) -> Any:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'dmpo[quant]'")
    save_model(tiny(hidden_size=64, mlp_hidden_size=128), folder, "llada")
    return load_model(folder, load_in_4bit=True)


def policy_of(kind: str, folder: Path) -> Any:
    if kind == "4 bits":
        return with_random_adapters(four_bit_model(folder))
    model: Any = tiny()
    return with_random_adapters(model.to(getattr(torch, kind)))


def stepped(policy: nn.Module) -> torch.optim.AdamW:
    """An optimiser with moments of all trained weights."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-3)
    hidden_states(policy, IDS).float().square().sum().backward()
    optimizer.step()
    return optimizer


def everything(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Objects by identity and values by their bytes, of all that training would go on with."""
    tensors = {
        **dict(policy.named_parameters()),
        **dict(policy.named_buffers()),
        **{f"{i} {k}": x for i, s in enumerate(optimizer.state.values()) for k, x in s.items()},
        **{f"state {name}": x for name, x in policy.state_dict().items()},
        "random": torch.get_rng_state(),
    }
    parameters = [*policy.parameters()]
    return {
        "modules": [(name, id(child), child.training) for name, child in policy.named_modules()],
        "parameters": [(id(p), p.data_ptr(), p.requires_grad, p._version, id(p.grad)) for p in parameters],
        "optimizer": [id(p) for group in optimizer.param_groups for p in group["params"]],
        "state_dict": list(policy.state_dict()),
        "values": {name: x.detach().reshape(-1).view(torch.uint8).tolist() for name, x in tensors.items() if x.numel()},
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "4 bits"])
def test_the_policy_is_afterwards_what_it_was(kind: str, training: bool, tmp_path: Path) -> None:
    policy = policy_of(kind, tmp_path)
    optimizer = stepped(policy.train(training))
    before = everything(policy, optimizer)
    with merged_adapters(policy) as merged, torch.no_grad():
        assert merged is policy
        assert not any(isinstance(layer, LoraLayer) for layer in policy.modules())
        assert all(child.training == training for child in policy.modules())
        assert not any(p.requires_grad for name, p in policy.named_parameters() if "proj" in name)
        hidden_states(policy, IDS)
    assert everything(policy, optimizer) == before


def test_an_error_or_a_signal_leaves_the_policy_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the context, and while some layers are merged and others are not."""
    policy = policy_of("bfloat16", Path())
    optimizer = stepped(policy)
    before, calls, original = everything(policy, optimizer), 0, merged_weight
    with pytest.raises(KeyboardInterrupt), merged_adapters(policy):
        raise KeyboardInterrupt
    assert everything(policy, optimizer) == before

    def interrupted(layer: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return original(layer)

    monkeypatch.setattr(module, "merged_weight", interrupted)
    with pytest.raises(KeyboardInterrupt), merged_adapters(policy):
        raise AssertionError("the context was entered")
    assert everything(policy, optimizer) == before


@pytest.mark.parametrize("dtype", list(HALF))
def test_a_merged_weight_is_the_sum_rounded_once(dtype: torch.dtype) -> None:
    """Besides the rounding to the dtype there are the roundings of a float32 product of rank + 2 terms."""
    model: Any = tiny(hidden_size=64)
    policy, rank = with_random_adapters(model.to(dtype), rank=8), 8
    layers: list[Any] = [layer for layer in policy.modules() if isinstance(layer, LoraLayer)]
    assert len(layers) == 14
    for layer in layers:
        weight, scale = layer.get_base_layer().weight.double(), layer.scaling["default"]
        down, up = (factors["default"].weight.double() for factors in (layer.lora_A, layer.lora_B))
        exact, sizes = weight + scale * up @ down, weight.abs() + scale * up.abs() @ down.abs()
        merged = merged_weight(layer)
        assert merged.dtype == dtype
        narrow = 0 if dtype == torch.float32 else HALF[dtype]
        wide = (rank + 2) * HALF[torch.float32] * sizes
        assert ((merged.double() - exact).abs() <= narrow * (exact.abs() + wide) + wide + TINY).all()
        assert (merged.double() - weight).abs().max() > 0.03, "the adapter counts"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_hidden_states_differ_by_the_rounding_of_the_weights(dtype: torch.dtype) -> None:
    """In each layer, for the inputs that the layer has in the merged pass: half a unit in the last place of each weight
    and of each output, and the roundings of the float32 sums. At the end, no more than the pass with adapters errs."""
    model: Any = tiny(hidden_size=64)
    policy = with_random_adapters(model.to(dtype)).eval()
    exact = {
        name: layer.get_base_layer().weight.double()
        + layer.scaling["default"] * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
        for name, layer in policy.named_modules()
        if isinstance(layer, LoraLayer)
    }
    checked: list[str] = []

    def check(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            x, weight = inputs[0].double(), exact[name]
            sizes, wanted = x.abs() @ weight.abs().T, x @ weight.T
            sums = 2 * (x.shape[-1] + 6) * HALF[torch.float32] * sizes
            narrow = 0 if dtype == torch.float32 else HALF[dtype]
            allowed = narrow * sizes + sums
            allowed = allowed + narrow * (wanted.abs() + allowed) + TINY
            assert ((output.double() - wanted).abs() <= allowed).all(), name
            checked.append(name)

        return hook

    with torch.no_grad():
        with_adapters = hidden_states(policy, IDS).double()
        with merged_adapters(policy):
            for name in exact:
                policy.get_submodule(name).register_forward_hook(check(name))
            merged = hidden_states(policy, IDS).double()
        true = hidden_states(policy.double(), IDS)
    assert checked == list(exact)
    errors = [float((found - true).norm() / true.norm()) for found in (merged, with_adapters)]
    assert 0 < errors[0] < (1.5 if dtype != torch.float32 else 3) * errors[1], errors


def test_a_4_bit_base_is_unpacked_and_merged(tmp_path: Path) -> None:
    policy = with_random_adapters(four_bit_model(tmp_path))
    from bitsandbytes import functional

    layer: Any = next(layer for layer in policy.modules() if isinstance(layer, LoraLayer))
    packed: Any = layer.get_base_layer().weight
    weight = functional.dequantize_4bit(packed.data, packed.quant_state)
    delta = layer.get_delta_weight("default")
    assert torch.equal(merged_weight(layer), (weight.float() + delta).bfloat16())
    # A CPU with AVX512-BF16 repacks the weight in the first forward in eval mode, with scales in bfloat16.
    packed.data, packed.quant_state = functional._convert_weight_packed_for_cpu(packed.data, packed.quant_state)
    before = packed.data.clone()
    repacked = unpacked_weight(layer.get_base_layer())
    assert ((repacked - weight).abs() <= 2 * HALF[torch.bfloat16] * weight.abs()).all()
    assert torch.equal(packed.data, before)
    assert packed.quant_state.packing_format_for_cpu
    assert not packed.quant_state.nested


@pytest.mark.parametrize("lora_bias", [True, False])
def test_biases_and_whole_modules_of_an_adapter(lora_bias: bool, tmp_path: Path) -> None:
    """A bias that the base has no place for is in the merged layer; a module that an adapter replaces stays."""
    plain_checkpoint(tmp_path, "qwen2", mask_token_id=3)  # biases of q, k and v alone
    base = load_model(tmp_path)
    config = peft.LoraConfig(
        r=2,
        use_rslora=True,
        lora_bias=lora_bias,
        target_modules=["q_proj", "o_proj"],
        modules_to_save=None if lora_bias else ["embed_tokens"],
    )
    policy = peft.get_peft_model(base, config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3, generator=draw)
        expected = hidden_states(policy, IDS)
        with policy.disable_adapter():
            assert (hidden_states(policy, IDS) - expected).abs().max() > 0.1
        with merged_adapters(policy):
            torch.testing.assert_close(hidden_states(policy, IDS), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(hidden_states(policy, IDS), expected)


def _adapted(**options: Any) -> Any:
    model = tiny()
    return peft.get_peft_model(model, peft.LoraConfig(r=2, **({"target_modules": ["q_proj"]} | options)))


def _two_active() -> Any:
    policy = _adapted()
    policy.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    policy.base_model.set_adapter(["default", "second"])
    return policy


def _elsewhere() -> Any:
    policy = _adapted()
    policy.add_adapter("second", peft.LoraConfig(r=2, target_modules=["k_proj"]))
    policy.set_adapter("second")
    return policy


def _merged() -> Any:
    policy = _adapted()
    policy.merge_adapter()
    return policy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiny, "a model without LoRA adapters"),
        (lambda: _adapted(use_dora=True), r"a LoRA variant \(DoraLinearVariant\).*: model.layers.0.self_attn.q_proj, "),
        (lambda: _adapted(target_modules=["embed_tokens"]), "LoRA on a layer of type Embedding"),
        (_two_active, "2 active adapters instead of one"),
        (_elsewhere, "without the active adapter 'second'"),
        (_merged, "an adapter that peft has already merged"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    policy = make()
    before = list(policy.modules())
    with pytest.raises(ValueError, match=f"merge_adapters must be false .*{message}"):
        check_mergeable(policy)
    with pytest.raises(ValueError, match=message), merged_adapters(policy):
        raise AssertionError("the context was entered")
    assert list(policy.modules()) == before


def test_a_disabled_adapter_is_refused() -> None:
    policy = with_random_adapters(tiny())
    with policy.disable_adapter(), pytest.raises(ValueError, match="with a disabled adapter"):
        check_mergeable(policy)
    check_mergeable(policy)
