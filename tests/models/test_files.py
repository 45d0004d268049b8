"""If these fail, a broken or foreign checkpoint is loaded by halves, or refused without a reason."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dmpo.models import load_model, load_tokenizer
from tests.tiny_models import DATA, edit_config, plain_checkpoint


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    """A sharded LLaDA checkpoint that a test may break."""
    return Path(shutil.copytree(DATA / "llada-tiny-sharded", tmp_path / "llada"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_type", "sequential"),
        ("block_type", ...),
        ("layer_norm_type", "low_precision"),
        ("activation_type", "swiglu"),
        ("rope", False),
        ("alibi", True),
        ("scale_logits", True),
        ("input_emb_norm", True),
        ("attention_layer_norm", True),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("bias_for_layer_norm", True),
        ("layer_norm_with_affine", False),
        ("block_group_size", 2),
        ("residual_dropout", 0.1),
        ("d_model", ...),
        ("n_layers", 0),
        ("n_heads", 3),
        ("n_kv_heads", 3),
        ("max_sequence_length", "512"),
        ("mask_token_id", 512),
        ("mask_token_id", "<mask>"),
        ("eos_token_id", -1),
    ],
)
def test_unsupported_variants_are_refused(llada: Path, key: str, value: Any) -> None:
    edit_config(llada, **{key: value})
    with pytest.raises(ValueError, match=key) as error:
        load_model(llada)
    assert str(llada / "config.json") in str(error.value)


def test_missing_folder_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        load_model("./nowhere")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="must be a checkpoint folder, got the file"):
        load_model(tmp_path / "model.safetensors")


def test_hub_id(llada: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    offered = ["config.json", "model.safetensors", "merges.txt", "modeling_llada.py", "a.bin", "onnx/model.safetensors"]

    def download(repo: str, **options: Any) -> str:
        asked.append(repo)
        wanted = [*filter_repo_objects(offered, **options)]
        assert wanted == ["config.json", "model.safetensors", "merges.txt"], "code or pickles would be downloaded"
        if repo != "some/model":
            raise FileNotFoundError("offline")
        return str(llada)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model("some/model").config.mask_token_id == 3
    with pytest.raises(ValueError, match=r"runs/typo.*offline"):
        load_model("runs/typo")
    assert asked == ["some/model", "runs/typo"]


def test_config_missing_or_garbled(llada: Path) -> None:
    config = llada / "config.json"
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        load_model(llada)
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must contain"):
        load_model(llada)
    config.unlink()
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        load_model(llada)


def test_bad_plain_config(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, "llama")
    edit_config(tmp_path, hidden_size="wide")
    with pytest.raises(ValueError, match=r"config\.json.*hidden_size"):
        load_model(tmp_path, mask_id=3)


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_truncated_file(llada: Path, keep: int) -> None:
    shard = llada / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{shard.name} is truncated"):
        load_model(llada)


def test_missing_shard_index_and_weights(llada: Path) -> None:
    (llada / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors does not exist"):
        load_model(llada)
    index = llada / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match="weight_map"):
        load_model(llada)
    index.unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        load_model(llada)
    (llada / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model\.bin\)"):
        load_model(llada)


def test_weights_that_are_missing_left_over_or_misshapen(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "llada-tiny", tmp_path / "llada"))
    weights = load_file(folder / "model.safetensors")
    norm, head = "model.transformer.blocks.1.attn_norm.weight", "model.transformer.ff_out.weight"

    def error_for(changed: dict[str, Tensor]) -> str:
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ValueError) as error:
            load_model(folder)
        return str(error.value)

    assert f"lacks {norm}" in error_for({name: weight for name, weight in weights.items() if name != norm})
    assert f"lacks {head}" in error_for({name: weight for name, weight in weights.items() if name != head})
    assert "extra.bias" in error_for(weights | {"extra.bias": torch.zeros(3)})
    assert "(63,)" in error_for(weights | {norm: torch.ones(63)})
    assert f"lacks {norm}" in error_for({name.replace("1.attn_norm", "1.atn_norm"): w for name, w in weights.items()})


def test_index_that_promises_too_much(llada: Path) -> None:
    index = llada / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["model.transformer.wte.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"00001-of-00002\.safetensors lacks model\.transformer\.wte\.weight"):
        load_model(llada)


def test_adapter_folder(llada: Path) -> None:
    """transformers would load the adapter's base model instead of the weights that were checked."""
    (llada / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(ValueError, match="holds an adapter"):
        load_model(llada)


def test_remote_code_is_not_run(llada: Path) -> None:
    (llada / "modeling_llada.py").write_text("raise SystemExit('remote code ran')")
    (llada / "configuration_llada.py").write_text("raise SystemExit('remote code ran')")
    assert load_model(llada).config.model_type == "llama"


def test_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<|mask|>": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    remote = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "mask_token": "<|mask|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(remote))
    (tmp_path / "tokenization_dream.py").write_text("raise SystemExit('remote code ran')")
    assert load_tokenizer(tmp_path)("abba")["input_ids"] == [2, 1, 0]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(remote | {"tokenizer_class": "OtherTokenizer"}))
    with pytest.raises(ValueError, match="without remote code"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not valid JSON"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("model_type", ["llada", "Dream", "llama", None])
def test_tokenizer_saved_beside_any_model(
    tmp_path: Path, model_type: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    backend = Tokenizer(WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", padding_side="left").save_pretrained(tmp_path)
    if model_type is not None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer("b")["input_ids"], tokenizer.eos_token_id, tokenizer.padding_side) == ([1], 2, "left")
    assert not caplog.records
