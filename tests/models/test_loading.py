"""If these fail, a checkpoint gives other logits than its authors' code, or is not the same after saving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dmpo.models import load_model, save_model
from dmpo.models.llada_layout import llada_to_llama_name, llama_to_llada_name
from dmpo.models.masked_lm import head_weight, hidden_states, lm_head, special_ids
from tests.tiny_models import ARCHITECTURES, DATA, edit_config, plain_checkpoint, tiny, tokens


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    """A sharded LLaDA checkpoint that a test may break."""
    return Path(shutil.copytree(DATA / "llada-tiny-sharded", tmp_path / "llada"))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_golden_logits(attn: str) -> None:
    golden = load_file(DATA / "logits-llada-tiny-sharded.safetensors")
    model = load_model(DATA / "llada-tiny-sharded", attn_implementation=attn)
    torch.testing.assert_close(model(golden["input_ids"]).logits, golden["logits"], atol=1e-4, rtol=0)
    hidden = hidden_states(model, golden["input_ids"])
    assert hidden.shape == (2, 96, 64)
    torch.testing.assert_close(lm_head(model, hidden[:, 7:9]), golden["logits"][:, 7:9], atol=1e-4, rtol=0)
    weight, bias = head_weight(model)
    assert bias is None
    torch.testing.assert_close(hidden @ weight.T, golden["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llada-tiny", "llada-tiny-sharded"])
def test_every_weight_is_the_files(name: str) -> None:
    stored: dict[str, Tensor] = {}
    for file in (DATA / name).glob("*.safetensors"):
        stored |= load_file(file)
    state = load_model(DATA / name).state_dict()
    assert len(state) == len(stored) == 30
    for key, weight in stored.items():
        assert torch.equal(state[llada_to_llama_name(key)], weight)


def test_llada_config() -> None:
    model = load_model(DATA / "llada-tiny")
    config = model.config
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (3, 2, 2)
    assert (config.is_causal, config.use_cache, config.num_key_value_heads) == (False, False, 4)
    assert (config.rope_parameters["rope_theta"], config.rms_norm_eps) == (500_000.0, 1e-5)
    assert config.max_position_embeddings == 512
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_load_in_bfloat16(dtype: torch.dtype | str) -> None:
    model = load_model(DATA / "llada-tiny", dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    exact = load_model(DATA / "llada-tiny")
    assert torch.equal(model.lm_head.weight, exact.lm_head.weight.bfloat16())
    ids = tokens(2, 12, 512)
    expected = exact(ids).logits
    # Allowed: a few times what rounding the weights alone does, as every activation is rounded, too.
    rounding = (exact.bfloat16().float()(ids).logits - expected).abs().mean()
    assert (model(ids).logits.float() - expected).abs().mean() < 4 * rounding


def test_bfloat16_checkpoint_stays_bfloat16(tmp_path: Path) -> None:
    save_model(tiny().bfloat16(), tmp_path, "llada")
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype="float32").dtype == torch.float32


def test_grouped_heads_and_tied_embeddings(tmp_path: Path) -> None:
    model = tiny(num_kv_heads=1, tie_embeddings=True)
    save_model(model, tmp_path, "llada")
    assert not any(name.startswith("model.transformer.ff_out") for name in load_file(tmp_path / "model.safetensors"))
    loaded: Any = load_model(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
    edit_config(tmp_path, n_kv_heads=None, multi_query_attention=True)
    assert load_model(tmp_path).config.num_key_value_heads == 1


def test_config_spellings(llada: Path) -> None:
    """n_kv_heads absent means n_heads; the embedding may have more rows than the vocabulary; the MLP may be a ratio."""
    expected = load_model(llada)(tokens(1, 8, 512)).logits
    edit_config(llada, n_kv_heads=None, vocab_size=500, mlp_hidden_size=None, mlp_ratio=2.5)
    assert torch.equal(load_model(llada)(tokens(1, 8, 512)).logits, expected)


def test_names_go_both_ways() -> None:
    names = json.loads((DATA / "llada-tiny-sharded/model.safetensors.index.json").read_text())["weight_map"]
    llama = {llada_to_llama_name(name) for name in names}
    assert llama == set(load_model(DATA / "llada-tiny").state_dict())
    assert {llama_to_llada_name(name) for name in llama} == set(names)
    # Modules and adapter weights, as peft names them, go the same way.
    assert llada_to_llama_name("base_model.model.model.transformer.blocks.11.ff_out.lora_A.weight") == (
        "base_model.model.model.layers.11.mlp.down_proj.lora_A.weight"
    )
    assert llada_to_llama_name("model.transformer.blocks.1.rotary") == "model.transformer.blocks.1.rotary"
    assert llada_to_llama_name("model.layers.1.mlp.up_proj.weight") == "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ValueError, match="q_norm"):
        llama_to_llada_name("model.layers.0.self_attn.q_norm.weight")


def naive_bidirectional(causal: nn.Module, ids: Tensor) -> Tensor:
    """Logits of a causal checkpoint under an explicit mask of zeros: every position sees every other."""
    length = ids.shape[1]
    causal.config._attn_implementation = "eager"  # type: ignore[union-attr]
    logits: Tensor = causal(ids, attention_mask=torch.zeros(ids.shape[0], 1, length, length)).logits
    return logits


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_plain_checkpoints_become_bidirectional(tmp_path: Path, kind: str, attn: str) -> None:
    causal = plain_checkpoint(tmp_path, kind)
    model = load_model(tmp_path, attn_implementation=attn, mask_id=3)
    ids = tokens(2, 11)
    torch.testing.assert_close(model(ids).logits, naive_bidirectional(causal, ids), atol=1e-4, rtol=1e-4)
    assert model.config.mask_token_id == 3
    assert model.config.pad_token_id == 2


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_dream_is_the_shifted_qwen2(tmp_path: Path, attn: str) -> None:
    causal = plain_checkpoint(tmp_path, "qwen2")
    edit_config(
        tmp_path,
        model_type="Dream",
        architectures=["DreamModel"],
        auto_map={"AutoModel": "modeling_dream.DreamModel"},
        mask_token_id=3,
        rope_theta=1_000_000.0,
        rope_parameters=...,
        rope_scaling=None,
        use_mrope=False,
    )
    causal.model.rotary_emb.inv_freq = 1e6 ** -torch.arange(0, 1, 0.5)  # head_dim 4: two frequencies
    model = load_model(tmp_path, attn_implementation=attn)
    ids = tokens(2, 11)
    unshifted = naive_bidirectional(causal, ids)
    expected = torch.cat([unshifted[:, :1], unshifted[:, :-1]], dim=1)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lm_head(model, hidden_states(model, ids)), expected, atol=1e-4, rtol=1e-4)
    assert model.prediction_shift == 1

    for folder, save in (("a", save_model), ("b", lambda model, folder: model.save_pretrained(folder))):
        save(model, tmp_path / folder)
        again = load_model(tmp_path / folder, attn_implementation=attn)
        assert again.prediction_shift == 1
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert "auto_map" not in json.loads((tmp_path / folder / "config.json").read_text())


def test_token_ids_that_the_checkpoint_does_not_name_stay_unset(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, "llama")
    edit_config(tmp_path, eos_token_id=..., bos_token_id=..., pad_token_id=...)
    config = load_model(tmp_path, mask_id=3).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


def test_several_eos_ids(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, "llama", eos_token_id=[5, 6])
    model = load_model(tmp_path, mask_id=3)
    assert model.config.pad_token_id == 5
    assert special_ids(model) == (3, (5, 6))
    save_model(model, tmp_path / "again", "llada")
    assert special_ids(load_model(tmp_path / "again")) == (3, (5, 6))
    edit_config(tmp_path, eos_token_id=[])
    assert special_ids(load_model(tmp_path, mask_id=3)) == (3, ())


@pytest.mark.parametrize("layout", ["transformers", "llada"])
def test_a_head_beside_a_flag_that_says_tied(tmp_path: Path, layout: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The file holds both weights: both are kept, loaded and saved."""
    plain_checkpoint(tmp_path / "a", "llama", tie_word_embeddings=False)
    ids, expected = tokens(2, 7), load_model(tmp_path / "a", mask_id=3)(tokens(2, 7)).logits
    edit_config(tmp_path / "a", tie_word_embeddings=True)
    model = load_model(tmp_path / "a", mask_id=3)
    assert "says tie_word_embeddings true, and holds a head that differs" in caplog.text
    assert torch.equal(model(ids).logits, expected)
    save_model(model, tmp_path / "b", layout)
    assert torch.equal(load_model(tmp_path / "b")(ids).logits, expected)
    fields = json.loads((tmp_path / "b" / "config.json").read_text())
    assert fields["weight_tying" if layout == "llada" else "tie_word_embeddings"] is False
    model.config.tie_word_embeddings = True  # as of a model that something else has loaded
    save_model(model, tmp_path / "c", layout)
    assert torch.equal(load_model(tmp_path / "c")(ids).logits, expected)


def test_a_head_that_is_the_embedding_is_stored_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tiny(tie_embeddings=True), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert load_model(tmp_path).config.tie_word_embeddings
    assert not caplog.messages


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("layout", ["transformers", "llada"])
def test_dtypes_as_config_json_writes_them(key: str, layout: Any, tmp_path: Path) -> None:
    save_model(tiny().bfloat16(), tmp_path, layout)
    for value in ("torch.bfloat16", "bfloat16", None, "auto"):
        edit_config(tmp_path, **{"dtype": ..., "torch_dtype": ..., key: value})
        assert load_model(tmp_path).dtype == torch.bfloat16
    wrong: Any
    for wrong in ("torch.bfloat17", "int8", 3, {}):
        edit_config(tmp_path, **{key: wrong})
        with pytest.raises(ValueError, match=rf"config\.json: {key} must be a floating-point torch dtype"):
            load_model(tmp_path)


def test_mask_token_is_required(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, "llama")
    with pytest.raises(ValueError, match="mask_id"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=r"\[0, 48\)"):
        load_model(tmp_path, mask_id=48)


def test_unknown_architecture(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path, "llama")
    edit_config(tmp_path, model_type="gpt2")
    with pytest.raises(ValueError, match=r"gpt2.*llada"):
        load_model(tmp_path, mask_id=3)


@pytest.mark.parametrize("layout", ["llada", "transformers"])
@pytest.mark.parametrize("max_shard_size", ["5GB", 4000])
def test_round_trip(tmp_path: Path, layout: Any, max_shard_size: int | str) -> None:
    model = load_model(DATA / "llada-tiny") if layout == "llada" else tiny()
    save_model(model, tmp_path, layout, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == 4000)
    again = load_model(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    ids = tokens(2, 6)
    assert torch.equal(model(ids).logits, again(ids).logits)
    for key in ("mask_token_id", "eos_token_id", "pad_token_id", "is_causal", "rope_parameters", "rms_norm_eps"):
        assert getattr(model.config, key) == getattr(again.config, key)


def test_llada_layout_is_the_official_one(tmp_path: Path) -> None:
    """The same names and config fields, except those that point at remote code or name a library version."""
    source = DATA / "llada-tiny"
    save_model(load_model(source), tmp_path, "llada")
    official, ours = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path))
    del official["auto_map"], official["transformers_version"]
    assert ours == official
    stored, written = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert stored.keys() == written.keys()
    assert all(torch.equal(stored[name], written[name]) for name in stored)


def test_saved_models_load_in_transformers_itself(tmp_path: Path) -> None:
    model, ids = load_model(DATA / "llada-tiny"), tokens(2, 6, 512)
    save_model(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / folder)(ids).logits, model(ids).logits)
        assert torch.equal(load_model(tmp_path / folder)(ids).logits, model(ids).logits)


def test_what_a_layout_cannot_express(tmp_path: Path) -> None:
    plain_checkpoint(tmp_path / "qwen3", "qwen3")
    plain_checkpoint(tmp_path / "bias", "llama", mlp_bias=True)
    with pytest.raises(ValueError, match="MaskedQwen3"):
        save_model(load_model(tmp_path / "qwen3", mask_id=3), tmp_path / "out", "llada")
    with pytest.raises(ValueError, match="mlp_bias"):
        save_model(load_model(tmp_path / "bias", mask_id=3), tmp_path / "out", "llada")
    with pytest.raises(ValueError, match="layout"):
        save_model(tiny(), tmp_path / "out", "gguf")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float33", "int8", torch.int64, 3])
def test_bad_dtype(dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype"):
        load_model(DATA / "llada-tiny", dtype=dtype)


@pytest.mark.parametrize(("name", "value"), [("mask", 48), ("mask", -1), ("eos", 99), ("pad", 48)])
def test_new_model_refuses_token_ids(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}_token_id"):
        tiny(**{f"{name}_id": value})


@pytest.mark.parametrize("changes", [{"num_heads": 3}, {"num_heads": 4, "num_kv_heads": 3}, {"num_layers": 0}])
def test_new_model_refuses_sizes(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=list(changes)[-1]):
        tiny(**changes)


@pytest.mark.parametrize("wrong", ["gpu", "cuda:99", 3.5])
def test_bad_device(wrong: Any) -> None:
    with pytest.raises(ValueError, match="device"):
        load_model(DATA / "llada-tiny", device=wrong)


def test_bad_attention() -> None:
    with pytest.raises(ValueError, match="attn_implementation"):
        load_model(DATA / "llada-tiny", attn_implementation="flesh")
