"""If these fail, a 4-bit base is no NF4, adapters on it do not train, or a missing package is reported too late."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dmpo.models import load_model, save_model
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import MaskedLlama, head_weight, hidden_states, lm_head
from tests.tiny_models import DATA, tiny, tokens


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A LLaDA whose widths are multiples of 64; llada-tiny's MLP is 160 wide."""
    save_model(tiny(hidden_size=64, mlp_hidden_size=128), tmp_path, "llada")
    return tmp_path


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (None, ImportError, r"pip install 'dmpo\[quant\]'"),
        (SimpleNamespace(supported_torch_devices={"cuda", "xpu"}), ValueError, "type cuda, xpu, got cpu"),
    ],
)
def test_refused_before_anything_is_read(
    module: Any, error: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    with pytest.raises(error, match=message):
        load_model("no/such/folder", load_in_4bit=True)


@pytest.mark.parametrize(("dtype", "compute"), [(None, torch.bfloat16), ("float32", torch.float32)])
def test_what_transformers_is_asked_for(
    checkpoint: Path, dtype: str | None, compute: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(folder: Path, **options: Any) -> Any:
        asked.update(options)
        raise InterruptedError

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(supported_torch_devices={"cpu"}))
    monkeypatch.setattr(MaskedLlama, "from_pretrained", from_pretrained)
    with pytest.raises(InterruptedError):
        load_model(checkpoint, dtype=dtype, load_in_4bit=True)
    quantization = asked["quantization_config"]
    assert quantization.load_in_4bit
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant) == ("nf4", True)
    assert (quantization.bnb_4bit_compute_dtype, asked["dtype"]) == (compute, compute)
    assert quantization.llm_int8_skip_modules == ["lm_head"]
    assert asked["device_map"] == {"": torch.device("cpu")}
    assert asked["key_mapping"]
    with pytest.raises(ValueError, match=r"multiples of 64: model\.layers\.0\.mlp\.down_proj\.weight is \(64, 160\)"):
        load_model(DATA / "llada-tiny", load_in_4bit=True)
    with pytest.raises(InterruptedError):
        load_model(checkpoint, dtype=dtype)
    assert (asked["quantization_config"], asked["device_map"]) == (None, None)


def test_nf4_on_the_cpu(checkpoint: Path) -> None:
    """Logits are those of the dequantised weights; the adapter trains, the base does not; no layout takes it."""
    functional = pytest.importorskip(
        "bitsandbytes.functional", reason="bitsandbytes is not installed: pip install 'dmpo[quant]'"
    )
    ids = tokens(2, 12)
    twin: Any = load_model(checkpoint, dtype="bfloat16")
    model: Any = load_model(checkpoint, load_in_4bit=True)
    linear: dict[str, Any] = {name: m for name, m in model.model.named_modules() if isinstance(m, nn.Linear)}
    assert len(linear) == 2 * 7
    with torch.no_grad():
        for name, module in linear.items():
            assert module.weight.dtype == torch.uint8
            assert module.weight.quant_state.nested
            weight = twin.model.get_submodule(name).weight
            exact = weight.float()
            weight.copy_(functional.dequantize_4bit(module.weight.data, module.weight.quant_state))
            assert 0.05 < (weight.float() - exact).norm() / exact.norm() < 0.12
        assert head_weight(model)[0].dtype == model.model.embed_tokens.weight.dtype == torch.bfloat16
        torch.testing.assert_close(model(ids).logits, twin(ids).logits)
    with pytest.raises(ValueError, match="4 bits"):
        save_model(model, "unused")
    policy = add_lora(model, rank=2, alpha=4, dropout=0.0)
    lm_head(policy, hidden_states(policy, ids)).float().square().mean().backward()
    trained = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert len(trained) == 2 * len(linear)
    assert all("lora_" in name for name in trained)
