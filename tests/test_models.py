"""If these fail, a checkpoint is loaded wrongly, by halves or not at all, or a model looks only to its left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dmpo import checkpoint_files
from dmpo.checkpoint_layout import llada_to_llama_name, llama_to_llada_name
from dmpo.models import (
    MaskedLM,
    head_weight,
    hidden_states,
    lm_head,
    load_model,
    load_tokenizer,
    lora_target_modules,
    new_model,
    save_model,
    unwrap,
)

DATA = Path(__file__).parent / "data"
SIZES = {"vocab_size": 48, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_hidden_size": 24}
PLAIN = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 24,
    "bos_token_id": None,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def tiny(**changes: Any) -> MaskedLM:
    # Weights ten times the usual size: with the usual ones attention is so flat that a wrong mask hardly shows.
    return new_model(**{**SIZES, "mask_id": 3, "eos_id": 2, "init_std": 0.2, **changes})


def tokens(rows: int, length: int, vocab_size: int = 48, seed: int = 0) -> Tensor:
    return torch.randint(4, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain_checkpoint(folder: Path, kind: str, **changes: Any) -> nn.Module:
    """A causal checkpoint as transformers saves it, biases and norms included in what is random."""
    config_class, model_class = ARCHITECTURES[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**{**PLAIN, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            fields.pop(key, None)
        else:
            fields[key] = value
    path.write_text(json.dumps(fields))


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    """A sharded LLaDA checkpoint that a test may break."""
    return Path(shutil.copytree(DATA / "llada-tiny-sharded", tmp_path / "llada"))


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


# --- LLaDA: golden values -------------------------------------------------------------------------------------------


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
    loaded = load_model(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded(tokens(2, 9)).logits, model(tokens(2, 9)).logits)
    edit_config(tmp_path, n_kv_heads=None, multi_query_attention=True)
    assert load_model(tmp_path).config.num_key_value_heads == 1


def test_config_spellings(llada: Path) -> None:
    """n_kv_heads absent means n_heads; the embedding may have more rows than the vocabulary; the MLP may be a ratio."""
    expected = load_model(llada)(tokens(1, 8, 512)).logits
    edit_config(llada, n_kv_heads=None, vocab_size=500, mlp_hidden_size=None, mlp_ratio=2.5)
    assert torch.equal(load_model(llada)(tokens(1, 8, 512)).logits, expected)


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


def test_names_go_both_ways() -> None:
    names = json.loads((DATA / "llada-tiny-sharded/model.safetensors.index.json").read_text())["weight_map"]
    llama = {llada_to_llama_name(name) for name in names}
    assert llama == set(load_model(DATA / "llada-tiny").state_dict())
    assert {llama_to_llada_name(name) for name in llama} == set(names)
    # Modules and adapter weights, as peft names them, go the same way.
    assert llada_to_llama_name("model.transformer.blocks.11.ff_out.lora_A.weight") == (
        "model.layers.11.mlp.down_proj.lora_A.weight"
    )
    assert llada_to_llama_name("model.layers.1.mlp.up_proj.weight") == "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ValueError, match="q_norm"):
        llama_to_llada_name("model.layers.0.self_attn.q_norm.weight")


# --- Other architectures --------------------------------------------------------------------------------------------


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
    assert load_model(tmp_path, mask_id=3).config.pad_token_id == 5


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


# --- What attends to what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_every_position_sees_every_other(attn: str, with_mask: bool) -> None:
    model = tiny(attn_implementation=attn)
    ids = tokens(1, 8)
    mask = torch.ones_like(ids) if with_mask else None
    before = hidden_states(model, ids, mask)
    for changed in (0, 4, 7):
        other = ids.clone()
        other[0, changed] = 45 if ids[0, changed] != 45 else 44
        moved = (hidden_states(model, other, mask) - before).abs().amax(-1)[0]
        assert (moved > 1e-4).all(), f"changing token {changed} moved {moved}"


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("mask_shape", ["2-D", "4-D"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(attn: str, mask_shape: str, side: str) -> None:
    model = tiny(attn_implementation=attn)
    short, full, pad = tokens(1, 7), tokens(1, 12, seed=1), torch.full((1, 5), 2)
    ids = torch.cat([torch.cat([pad, short] if side == "left" else [short, pad], dim=1), full])
    mask = torch.ones_like(ids)
    where = slice(5, None) if side == "left" else slice(0, 7)
    mask[0] = 0
    mask[0, where] = 1
    if mask_shape == "4-D":
        mask = mask.bool()[:, None, None, :].expand(2, 1, 12, 12)
    batch = hidden_states(model, ids, mask)
    torch.testing.assert_close(batch[:1, where], hidden_states(model, short), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch[1:], hidden_states(model, full), atol=1e-4, rtol=1e-4)
    attended = hidden_states(model, ids)[:1, where]
    assert (attended - hidden_states(model, short)).abs().max() > 0.01, "padding would not have shown"


def test_position_ids_are_used() -> None:
    model = tiny()
    ids = tokens(1, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = hidden_states(model, ids[:, order], position_ids=order[None])
    torch.testing.assert_close(shuffled, hidden_states(model, ids)[:, order], atol=1e-4, rtol=1e-4)


def test_cache_of_a_prefix() -> None:
    """The keys of a prefix, kept from a full forward and cropped, serve a forward on the rest alone: as in decoding."""
    model = tiny()
    ids = tokens(2, 10)
    cache = DynamicCache(config=model.config)
    full = hidden_states(model, ids, past_key_values=cache)
    cache.crop(-6)
    rest = hidden_states(model, ids[:, 4:], position_ids=torch.arange(4, 10)[None], past_key_values=cache)
    torch.testing.assert_close(rest, full[:, 4:], atol=1e-4, rtol=1e-4)


# --- Calling and wrapping -------------------------------------------------------------------------------------------


def test_logits_to_keep_labels_and_tuples() -> None:
    model, ids = tiny(), tokens(2, 6)
    logits = model(ids).logits
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])
    torch.testing.assert_close(model(ids, return_dict=False)[0], logits)
    with pytest.raises(ValueError, match="labels"):
        model(ids, labels=ids)
    with pytest.raises(NotImplementedError, match=r"dmpo\.generate"):
        model.generate(ids)


def test_padding_embedding_is_trained() -> None:
    """EOS is also the padding token: transformers would freeze its embedding."""
    model = tiny()
    assert model.model.embed_tokens.weight[2].abs().sum() > 0
    with torch.enable_grad():
        hidden_states(model, torch.tensor([[2, 5, 2]])).square().sum().backward()
    assert model.model.embed_tokens.weight.grad[2].abs().sum() > 0


def test_same_seed_same_model() -> None:
    state = torch.random.get_rng_state()
    first, second, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_lora_wrapped(task_type: str | None) -> None:
    plain, ids = tiny(), tokens(2, 6)
    targets = lora_target_modules(plain)
    assert targets == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=2, target_modules=targets, task_type=task_type, init_lora_weights=False)
    model = peft.get_peft_model(tiny(), config)
    adapted = hidden_states(model, ids)
    assert (adapted - hidden_states(plain, ids)).abs().max() > 0.01
    torch.testing.assert_close(lm_head(model, adapted), model(input_ids=ids).logits)
    with model.disable_adapter():
        torch.testing.assert_close(hidden_states(model, ids), hidden_states(plain, ids))
    with torch.enable_grad():
        hidden_states(model, ids, torch.ones_like(ids)).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(trained) == 2 * 7 * 2
    with pytest.raises(ValueError, match="merge"):
        save_model(model, "unused")
    merged = model.merge_and_unload()
    torch.testing.assert_close(hidden_states(merged, ids), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_adapter_on_the_head_is_refused(place: dict[str, Any]) -> None:
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, **{"target_modules": ["q_proj"], **place}))
    hidden = hidden_states(model, tokens(1, 4))
    with pytest.raises(ValueError, match="lm_head"):
        lm_head(model, hidden)
    with pytest.raises(ValueError, match="lm_head"):
        head_weight(model)


class Wrapper(nn.Module):
    """What DDP is to a caller: `.module`, and a forward that does something besides."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.module(*args, **kwargs)


def test_calls_go_through_the_wrapper() -> None:
    model = tiny()
    wrapped = Wrapper(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])))
    hidden = hidden_states(wrapped, tokens(1, 4))
    assert wrapped.calls == 1
    assert unwrap(wrapped) is model
    assert lm_head(wrapped, hidden).shape == (1, 4, 48)
    with pytest.raises(TypeError, match="Linear"):
        hidden_states(nn.Linear(2, 2), tokens(1, 4))


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    ids, grads = tokens(2, 6), []
    for checkpointing in (False, True):
        model = tiny().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        with torch.enable_grad():
            hidden_states(model, ids).square().sum().backward()
        grads.append(model.model.embed_tokens.weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


# --- Saving ---------------------------------------------------------------------------------------------------------


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


# --- Broken checkpoints ---------------------------------------------------------------------------------------------


def test_missing_folder_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        load_model("./nowhere")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a file"):
        load_model(tmp_path / "model.safetensors")


def test_hub_id(llada: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(repo: str, **options: Any) -> str:
        asked.append(repo)
        if repo != "some/model":
            raise FileNotFoundError("offline")
        return str(llada)

    monkeypatch.setattr(checkpoint_files, "snapshot_download", download)
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
    with pytest.raises(ValueError, match=r"config\.json must hold"):
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


def test_remote_code_is_not_run(llada: Path) -> None:
    (llada / "modeling_llada.py").write_text("raise SystemExit('remote code ran')")
    (llada / "configuration_llada.py").write_text("raise SystemExit('remote code ran')")
    assert load_model(llada).config.model_type == "llama"


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


# --- Tokenizers -----------------------------------------------------------------------------------------------------


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
