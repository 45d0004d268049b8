"""If these fail, a model from a GGUF file has other weights or another tokenizer than the file, or is not refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo.models import convert, load_model, load_tokenizer
from tests.models.conversion_sources import byte_tokenizer, source, write_gguf

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install gguf")

SIZES: dict[str, Any] = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 32, "num_hidden_layers": 2}


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)])
def test_the_weights_and_the_tokenizer_of_the_file(kind: str, tied: bool, tmp_path: Path) -> None:
    sizes = SIZES | ({"head_dim": 8} if kind == "qwen3" else {})
    original = source(tmp_path / "source", kind, tie_word_embeddings=tied, **sizes)
    write_gguf(tmp_path / "one.gguf", original, quantised={"blk.1.ffn_up.weight"})
    report = convert(tmp_path / "one.gguf", tmp_path / "masked", shift=True)
    assert f"{kind}, " in report
    model = load_model(tmp_path / "masked")
    state, expected = model.state_dict(), dict(original.state_dict())
    packed = gguf.quantize(expected["model.layers.1.mlp.up_proj.weight"].numpy(), gguf.GGMLQuantizationType.Q8_0)
    unpacked = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
    assert not torch.equal(unpacked, expected["model.layers.1.mlp.up_proj.weight"])
    expected["model.layers.1.mlp.up_proj.weight"] = unpacked
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    config: Any = model.config
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (3, 0, 0)
    assert (config.tie_word_embeddings, config.dtype, model.prediction_shift) == (tied, torch.float32, 1)
    for name in ("rope_parameters", "rms_norm_eps", "max_position_embeddings", "num_key_value_heads"):
        assert getattr(config, name) == pytest.approx(getattr(original.config, name)), name
    assert "quantization" not in (tmp_path / "masked" / "config.json").read_text()
    tokenizer, text = load_tokenizer(tmp_path / "masked"), "abba <image> é<start>"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_a_file_of_a_folder_and_a_dtype(tmp_path: Path) -> None:
    original = source(tmp_path / "source", **SIZES)
    write_gguf(tmp_path / "source" / "one.gguf", original)
    convert(tmp_path / "source", tmp_path / "masked", gguf="one.gguf", dtype="bfloat16", mask_token="<blank>")
    model: Any = load_model(tmp_path / "masked")
    assert (model.dtype, model.config.vocab_size) == (torch.bfloat16, original.config.vocab_size + 1)
    assert torch.equal(model.model.norm.weight, original.model.norm.weight.bfloat16())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gemma2"}, "architecture 'gemma2' is not supported; llama, qwen2, qwen3 are"),
        ({"_expert_count": 4}, "mixtures of experts"),
        ({"_rope__scaling__type": "yarn"}, "the scaling of its rotary embedding"),
        ({"left_out": {"tokenizer"}}, "holds no tokenizer"),
        ({"left_out": {"blk.0.attn_q.weight"}}, "lacks blk.0.attn_q.weight"),
        ({"_attention__key_length": 4}, r"blk.0.attn_\w+.weight has shape"),
        ({"surplus": "blk.0.attn_q.bias"}, "has weights that do not belong to its metadata: blk.0.attn_q.bias"),
        ({"surplus": "rope_freqs.weight"}, "the scaling of its rotary embedding"),
        ({"unreadable": "blk.0.attn_v.weight"}, "blk.0.attn_v.weight has the quantisation Q8_K, which cannot be read"),
    ],
)
def test_a_file_that_cannot_be_converted(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    original = source(tmp_path / "source", **SIZES)
    write_gguf(tmp_path / "one.gguf", original, **options)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "one.gguf", tmp_path / "masked")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gguf", "source"]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one.gguf", source(tmp_path / "source", **SIZES))
    for size in (0, 3, 40, 2000, 9000):
        (tmp_path / "cut.gguf").write_bytes((tmp_path / "one.gguf").read_bytes()[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf is no GGUF file, or a damaged one"):
            convert(tmp_path / "cut.gguf", tmp_path / "masked")
    assert not (tmp_path / "masked").exists()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "one.gguf", source(tmp_path / "source", **SIZES))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf"):
        convert(tmp_path / "one.gguf", tmp_path / "masked")
