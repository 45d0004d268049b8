"""If these fail, a model looks only to its left, attends to padding, or loses gradients inside a wrapper."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import DynamicCache

from dmpo.models import load_model, save_model
from dmpo.models.lora import lora_target_modules
from dmpo.models.masked_lm import apply_head, head_weight, hidden_states, lm_head, unwrap
from tests.tiny_models import DATA, plain_checkpoint, tiny, tokens


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


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


@pytest.mark.parametrize("loaded", [False, True])
def test_padding_embedding_is_trained(loaded: bool) -> None:
    """EOS is also the padding token: transformers would start its embedding at zero, and freeze it."""
    model: Any = load_model(DATA / "llada-tiny") if loaded else tiny()
    assert model.config.pad_token_id == model.config.eos_token_id == 2
    assert model.model.embed_tokens.weight[2].abs().sum() > 0
    with torch.enable_grad():
        hidden_states(model, torch.tensor([[2, 5, 2]])).square().sum().backward()
    assert model.model.embed_tokens.weight.grad[2].abs().sum() > 0


def test_head_takes_rows_of_another_dtype() -> None:
    """Mixed-precision wrappers hand out float32 hidden states of a bfloat16 model."""
    model = tiny().bfloat16()
    hidden = hidden_states(model, tokens(1, 4))
    assert torch.equal(lm_head(model, hidden.float()), lm_head(model, hidden))


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
    with pytest.raises(ValueError, match="lm_head"):
        lm_head(model, torch.zeros(1, 4, 16))
    with pytest.raises(ValueError, match="lm_head"):
        hidden_states(model, tokens(1, 4))
    with pytest.raises(ValueError, match="lm_head"):
        head_weight(model)


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def count_reduced(sizes, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
    """A communication hook that notes how many gradients DDP was about to reduce."""
    sizes.append(bucket.buffer().numel())
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("lora", [False, True])
def test_gradients_pass_through_ddp(lora: bool) -> None:
    """A function in place of the head runs inside DDP's forward; every gradient is reduced, and right."""
    plain: Any = tiny()
    if lora:
        plain = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped = DistributedDataParallel(copy.deepcopy(plain))
    reduced: list[int] = []
    wrapped.register_comm_hook(reduced, count_reduced)
    assert unwrap(wrapped) is unwrap(wrapped.module)
    gradients: list[list[Any]] = []
    for model in (plain, wrapped):
        with torch.enable_grad():
            apply_head(model, lambda h, weight, bias: (h @ weight.T).logsumexp(-1).sum(), tokens(2, 6)).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.requires_grad])
    torch.testing.assert_close(*gradients)
    assert sum(reduced) == sum(gradient.numel() for gradient in gradients[0])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_head_takes_a_function_in_place_of_the_logits(kind: str, tmp_path: Path) -> None:
    """Where hooks of lm_head itself see it, hidden states and parameters are what the logits are made of."""
    plain_checkpoint(tmp_path, kind, tie_word_embeddings=kind == "qwen2")
    model: Any = load_model(tmp_path, mask_id=3)
    ids = tokens(2, 6)
    seen: list[Any] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(input_ids=ids).logits
    assert torch.equal(apply_head(model, nn.functional.linear, ids), logits)
    weight, bias = apply_head(model, lambda hidden, weight, bias: (weight, bias), ids)
    assert [weight.data_ptr(), bias] == [head_weight(model)[0].data_ptr(), head_weight(model)[1]]
    assert (weight is model.model.embed_tokens.weight) == (kind == "qwen2")
    assert len(seen) == 3


def test_unwrap() -> None:
    model = tiny()
    compiled: Any = torch.compile(peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])))
    assert unwrap(compiled) is model
    with pytest.raises(TypeError, match="Linear"):
        hidden_states(nn.Linear(2, 2), tokens(1, 4))


def test_activation_checkpointing_gives_the_same_gradient() -> None:
    ids, grads = tokens(2, 6), []
    for checkpointing in (False, True):
        model = tiny().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        with torch.enable_grad():
            hidden_states(model, ids).square().sum().backward()
        grads.append(model.model.embed_tokens.weight.grad)
    torch.testing.assert_close(grads[0], grads[1])
