"""If these fail, the rows that the head reads differ from a whole pass, or the last layer runs on others, too."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dmpo.decoding.cache import BlockCache
from dmpo.models.last_layer import HeadRows
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import (
    Dream,
    DreamConfig,
    MaskedLlama,
    MaskedLM,
    MaskedQwen2,
    MaskedQwen3,
    apply_head,
    hidden_states,
)
from dmpo.models.model_config import make_bidirectional
from dmpo.rollouts.likelihood import kept_positions
from tests.tiny_models import PLAIN, random_in_float64, tiny, tokens

CLASSES: dict[str, tuple[type[PreTrainedConfig], type[MaskedLM]]] = {
    "llama": (LlamaConfig, MaskedLlama),
    "qwen2": (MaskedQwen2.config_class, MaskedQwen2),
    "qwen3": (Qwen3Config, MaskedQwen3),
    "dream": (DreamConfig, Dream),
}


@cache
def shared(kind: str, attention: str) -> MaskedLM:
    return model_of(kind, attention)


def model_of(kind: str, attention: str = "sdpa", **changes: Any) -> MaskedLM:
    """Two grouped-query layers, all parameters random, float64; also inside the norms, which transformers narrows."""
    config_class, model_class = CLASSES[kind]
    config = config_class(**{**PLAIN, **changes})
    config._attn_implementation = attention
    make_bidirectional(config, 3)
    return random_in_float64(model_class(config))


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden @ weight.t()


def gradient(model: Any, result: Tensor) -> dict[str, Tensor]:
    """Of a loss that weights each number of the result differently, by parameter name."""
    model.zero_grad()
    (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(model: Any, rows: HeadRows, ids: Tensor, mask: Tensor | None = None, **kwargs: Any) -> None:
    """The rows of a whole pass, and their gradient. transformers' eager softmax is float32, and its gradient, too."""
    eager = model.config._attn_implementation == "eager"
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6} if eager else {"rtol": 1e-9, "atol": 1e-9}
    expected = rows.of(apply_head(model, logits, ids, mask, **kwargs))
    wanted = gradient(model, expected)
    found = apply_head(model, logits, ids, mask, rows=rows, **kwargs)
    torch.testing.assert_close(found, expected, **close)
    got = gradient(model, found)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, **close)


@settings(max_examples=24, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(CLASSES)),
    attention=st.sampled_from(["sdpa", "eager"]),
    count=st.integers(1, 3),
    length=st.integers(1, 7),
    padding=st.sampled_from(["none", "2-D", "of keys", "of queries"]),
    by_row=st.booleans(),
    data=st.data(),
)
def test_rows_of_a_whole_pass(
    kind: str, attention: str, count: int, length: int, padding: str, by_row: bool, data: st.DataObject
) -> None:
    model, ids = shared(kind, attention), tokens(count, length)
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    asked = data.draw(st.integers(1, length + 2))  # a position may be asked for twice
    positions = torch.randint(length, (count, asked) if by_row else (asked,), generator=draw)
    kept = torch.rand(count, asked, generator=draw) < 0.6 if data.draw(st.booleans()) else None
    if kept is not None:
        kept[0, 0] = True
    rows = HeadRows(positions) if kept is None else HeadRows(positions, kept_positions(kept))
    mask = None
    if padding != "none":
        mask = torch.ones(count, length).bool()
        mask[0, : length // 2] = False
    if padding in ("of keys", "of queries"):
        mask = mask[:, None, None, :].expand(-1, 1, length, -1)  # type: ignore[index]
    if padding == "of queries":
        mask = mask | torch.eye(length).bool()  # type: ignore[operator]
    same(model, rows, ids, mask)


def test_no_row_is_kept() -> None:
    """The result is empty, and the gradient is 0 rather than absent: all ranks reduce the same tensors."""
    model, rows = model_of("llama"), HeadRows(torch.arange(2), kept_positions(torch.zeros(3, 2).bool()))
    found = apply_head(model, logits, tokens(3, 5), rows=rows)
    assert found.shape == (0, 48)
    grads = gradient(model, found)
    assert grads.keys() == {name for name, _ in model.named_parameters()}
    assert all((grad == 0).all() for grad in grads.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_and_recomputed_activations(checkpointing: bool) -> None:
    base: Any = model_of("qwen2", num_hidden_layers=1)
    model = add_lora(base, rank=2, alpha=4, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    model.double().train()
    if checkpointing:
        base.gradient_checkpointing_enable()
    mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    same(model, HeadRows(torch.arange(3, 7), kept_positions(mask)), tokens(2, 7))


@pytest.mark.parametrize("kind", ["llama", "dream"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_cached_pass_writes_all_its_keys_and_values(kind: str, attention: str) -> None:
    """A first pass that reads a block, then a pass over three positions that reads one of them."""
    model, ids = model_of(kind, attention), tokens(2, 8)
    with torch.no_grad():
        caches = [BlockCache(2), BlockCache(2)]
        block = HeadRows(torch.arange(4, 7))
        for rows, cache in zip((None, block), caches, strict=True):
            first = hidden_states(model, ids, rows=rows, past_key_values=cache, use_cache=True)
            assert first.shape[1] == (3 if rows else 8)
            cache.place.positions = torch.arange(3, 7)
        later, place = tokens(2, 4, seed=3), torch.arange(3, 7)[None]
        rest = [
            hidden_states(model, later, None, place, rows=rows, past_key_values=cache, use_cache=True)
            for rows, cache in zip((None, HeadRows(torch.tensor([1, 3]))), caches, strict=True)
        ]
    torch.testing.assert_close(rest[1], rest[0][:, [1, 3]], rtol=1e-9, atol=1e-9)
    of_whole, of_rows = ([(layer.keys, layer.values) for layer in kept.layers] for kept in caches)  # type: ignore[union-attr]
    torch.testing.assert_close(of_rows, of_whole, rtol=0, atol=0)


@pytest.mark.parametrize("sliding", [False, True])
def test_attention_whose_mask_knows_no_queries(sliding: bool) -> None:
    """As with flash attention: the mask [N, S] or a window stands for the order of all queries, so none is left out."""
    seen: list[tuple[int, Any]] = []

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        seen.append((query.shape[2], kwargs.get("sliding_window")))
        assert mask is None or mask.dim() == 2
        groups = query.shape[1] // key.shape[1]
        keys, values = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = query @ keys.transpose(2, 3) * kwargs["scaling"]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :].bool(), -torch.inf)
        return (scores.softmax(-1) @ values).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("of_keys", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("of_keys", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    try:
        window = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0} if sliding else {}
        model, ids = model_of("qwen2", "of_keys", **window), tokens(2, 6)
        mask = None if sliding else torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
        same(model, HeadRows(torch.tensor([3, 5])), ids, mask)
        assert {queries for queries, _ in seen} == {6}
        assert {window for _, window in seen} == {64 if sliding else None}
        if not sliding:
            seen.clear()
            same(model, HeadRows(torch.tensor([3, 5])), ids)
            assert [queries for queries, _ in seen] == [6, 6, 6, 2]
    finally:
        for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
            functions._global_mapping.pop("of_keys")


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_looks_as_before(layers: int) -> None:
    """accelerate and transformers know layers by the name of their class; weights keep their names, copies work."""
    model = tiny(num_layers=layers)
    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}  # type: ignore[union-attr]
    names = {f"model.layers.{layers - 1}.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"}
    assert names <= model.state_dict().keys()
    ids, rows = tokens(2, 5), HeadRows(torch.tensor([1, 4]))
    with torch.no_grad():
        assert torch.equal(hidden_states(copy.deepcopy(model), ids, rows=rows), hidden_states(model, ids, rows=rows))
        output = model(ids, output_hidden_states=True)
        assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(2, 5, 16)] * (layers + 1)
        torch.testing.assert_close(model(ids, rows=rows).logits, output.logits[:, [1, 4]])


def test_the_last_layer_costs_its_rows() -> None:
    """H 16, MLP 24, 2 heads of 8; N 2, T 9, Q 5, M 3. Two products a multiply-add, keys and values of all positions."""
    model, ids = tiny(num_layers=1, attn_implementation="eager"), tokens(2, 9)
    kept = torch.zeros(2, 5).bool()
    kept[0, 1] = kept[1, 0] = kept[1, 4] = True

    def counted(rows: HeadRows | None) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            hidden_states(model, ids, rows=rows)
        return counter.get_total_flops()

    h, f, n, t, q, m = 16, 24, 2, 9, 5, 3

    def layer(queries: int, rest: int) -> int:
        keys_values, read = 2 * 2 * n * t * h * h, 2 * 2 * queries * t * h
        return keys_values + 2 * queries * h * h + read + 2 * rest * h * h + 3 * 2 * rest * h * f

    assert counted(None) == layer(n * t, n * t) == 88_704
    assert counted(HeadRows(torch.arange(4, 9))) == layer(n * q, n * q) == 57_472
    assert counted(HeadRows(torch.arange(4, 9), kept_positions(kept))) == layer(n * q, m) == 37_760


def test_compiled_layers_take_rows_of_any_number() -> None:
    """Without a break; a graph with a free number of rows serves the second size and those that follow."""
    model, ids, graphs = tiny(num_layers=1), tokens(2, 6), 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    plain = copy.deepcopy(model)
    layers: Any = model.model.layers
    layers[-1].compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        for kept in ([0, 2], [0, 1, 2, 5], [3, 4, 5]):
            rows = HeadRows(torch.arange(3, 6), torch.tensor(kept))
            torch.testing.assert_close(hidden_states(model, ids, rows=rows), hidden_states(plain, ids, rows=rows))
    torch._dynamo.reset()
    assert graphs == 2, "of two rows, and of any other number"
