"""The last decoder layer on the rows that the head reads.

Nothing attends to the output of the last layer. So its queries, output projection and MLP, and the norm after it, run
on the rows that the head reads; its keys and values run on all positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward, rotate_half


@dataclass(frozen=True)
class HeadRows:
    """The rows of a pass that the head reads: the predictions of chosen positions.

    positions: int64 [Q] of every row, or [N, Q], indices into the inputs of the pass, of the tokens that are predicted.
        Queries of the last layer run for all of them.
    kept: int64 [M], indices into the N·Q positions, row by row. After attention only these rows go on. None: all.
    """

    positions: Tensor
    kept: Tensor | None = None

    def shifted(self, shift: int) -> HeadRows:
        """The rows of the outputs that predict these tokens: `shift` further left, position 0 at 0."""
        return replace(self, positions=(self.positions - shift).clamp(min=0)) if shift else self

    def of(self, hidden: Tensor) -> Tensor:
        """These rows of a whole pass: [N, T, X] -> [N, Q, X], or [M, X] where `kept` is given."""
        return self.kept_of(_at(hidden, self.positions, 1))

    def kept_of(self, rows: Tensor) -> Tensor:
        """The rows that go on: [N, Q, X] -> [M, X], or all of them."""
        return rows if self.kept is None else rows.flatten(0, 1).index_select(0, self.kept)


class LastLayer(nn.Module):
    """What the last layer of a model adds to transformers' decoder layer: `head_rows`, the rows that the head reads.

    With them, `forward` returns the rows alone, as `HeadRows.of` has them. They are an argument and not a state: so
    gradient checkpointing computes the same rows again.
    """

    def forward(self, hidden_states: Tensor, *args: Any, head_rows: HeadRows | None = None, **kwargs: Any) -> Any:
        if head_rows is None:
            return super().forward(hidden_states, *args, **kwargs)
        return _forward_rows(self, hidden_states, head_rows, *args, **kwargs)


def read_rows_only(layers: nn.ModuleList) -> None:
    """Make the last of a model's decoder layers a `LastLayer`, in place; the names of its weights stay."""
    last: Any = layers[-1]
    layer_class: Any = type(last)
    last.__class__ = _last_layer_class(layer_class)


@cache
def _last_layer_class(layer_class: Any) -> type[nn.Module]:
    """The subclass keeps the name, by which accelerate and transformers know the layers that stay whole."""
    return type(layer_class.__name__, (LastLayer, layer_class), {"__module__": __name__})


def _forward_rows(
    layer: Any,
    hidden: Tensor,
    rows: HeadRows,
    attention_mask: Any = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> Tensor:
    """The layer of transformers' Llama, Qwen2 and Qwen3 on [N, T, H]; [N, Q, H], or [M, H] where rows are chosen."""
    assert position_embeddings is not None
    normed = layer.input_layernorm(hidden)
    attended = _attend(
        layer.self_attn, normed, rows.positions, position_embeddings, attention_mask, past_key_values, **kwargs
    )
    hidden = rows.of(hidden) + layer.self_attn.o_proj(rows.kept_of(attended))
    result: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return result


def _attend(
    attention: Any,
    normed: Tensor,
    positions: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: Any,
    past_key_values: Any,
    **kwargs: Any,
) -> Tensor:
    """What the queries at `positions` read, before the output projection: [N, T, H] -> [N, Q, heads · head size]."""
    sliding_window, (cos, sin) = getattr(attention, "sliding_window", None), position_embeddings
    query_inputs, query_cos, query_sin = normed, cos, sin
    # The order of all queries matters to a window without a mask, and to a mask without queries: flash attention's
    # [N, S], flex attention's blocks. There the queries of all positions run.
    apart = (isinstance(mask, Tensor) and mask.dim() == 4) or (mask is None and sliding_window is None)
    if apart:
        query_inputs, query_cos, query_sin = (_at(x, positions, 1) for x in (normed, cos, sin))
    if apart and mask is not None:
        one_for_all = mask.stride(2) == 0
        mask = mask[:, :, :1].expand(-1, -1, positions.shape[-1], -1) if one_for_all else _at(mask, positions, 2)
    queries, keys, values = (
        project(x).unflatten(-1, (-1, attention.head_dim))
        for project, x in ((attention.q_proj, query_inputs), (attention.k_proj, normed), (attention.v_proj, normed))
    )
    if hasattr(attention, "q_norm"):  # Qwen3
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    queries = _rotated(queries.transpose(1, 2), query_cos, query_sin)
    keys, values = _rotated(keys.transpose(1, 2), cos, sin), values.transpose(1, 2)
    if past_key_values is not None:
        keys, values = past_key_values.update(keys, values, attention.layer_idx)
    if sliding_window is not None:
        kwargs["sliding_window"] = sliding_window
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    dropout = attention.attention_dropout if attention.training else 0.0
    output, _ = attend(attention, queries, keys, values, mask, dropout=dropout, scaling=attention.scaling, **kwargs)
    of_positions: Tensor = output.flatten(-2)  # [N, Q, heads · head size]
    return of_positions if apart else _at(of_positions, positions, 1)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [N, heads, T, D] by cos and sin [N or 1, T, D], as transformers has it."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotated: Tensor = heads * cos + rotate_half(heads) * sin
    return rotated


def _at(tensor: Tensor, positions: Tensor, dim: int) -> Tensor:
    """The positions [Q] or [N, Q] of a tensor along `dim`; its first dimension is N, or 1 for all rows alike."""
    if positions.dim() == 1:
        return tensor.index_select(dim, positions)
    shape = [len(positions), *[1] * (tensor.dim() - 1)]
    shape[dim] = positions.shape[1]
    return torch.take_along_dim(tensor, positions.view(shape), dim)
