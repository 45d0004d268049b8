"""Bidirectional masked language models, and their hidden states apart from the head.

A model here is transformers' Llama, Qwen2 or Qwen3 in which every token attends to every other
(`config.is_causal=False`). LLaDA is such a Llama; Dream is such a Qwen2 whose position j is predicted by the output
at j-1. `prediction_shift` of config.json is 1 in other models of that alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from .block_causal import block_causal_mask
from .last_layer import HeadRows, read_rows_only
from .token_ids import listed_ids

T = TypeVar("T")
HeadFunction = Callable[[Tensor, Tensor, Tensor | None], T]  # (hidden [..., H], weight [V, H], bias [V] or None)


class Head(nn.Linear):
    """lm_head: the logits, or any function of its weight.

    `head(hidden, function)` is `function(hidden, weight, bias)`, called as part of the module: what gathers a sharded
    weight (FSDP2, ZeRO-3) does so before it, and sees its inputs and outputs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden: Tensor, function: HeadFunction[Any] = nn.functional.linear) -> Any:
        return function(hidden, self.weight, self.bias)


class MaskedLM(PreTrainedModel):
    """What a bidirectional masked language model adds to transformers' class: the head apart, and Dream's shift.

    `forward` takes what transformers' models take and returns `.logits` [N, L, V], aligned to the predicted position.
    With `head`, a function of the hidden states [N, L, H], lm_head's weight and its bias, it returns what that returns:
    as part of `forward`, so that DDP, FSDP, DeepSpeed, peft and accelerate see the call. With `rows` the last layer
    runs on these rows, and the logits or the input of `head` are theirs: [N, Q, ...], or [M, ...] of the rows kept.
    """

    prediction_shift: int = 0  # position j is predicted by the output at j - prediction_shift; the config may state it
    official_architecture: ClassVar[str]  # `architectures` of a saved config.json

    model: nn.Module
    lm_head: Head

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.prediction_shift = getattr(config, "prediction_shift", self.prediction_shift)
        # The padding token is often EOS, whose embedding must not lose its gradient.
        embeddings: Any = self.get_input_embeddings()
        embeddings.padding_idx = None
        self.lm_head = Head(self.lm_head)
        layers: Any = self.model.layers
        read_rows_only(layers)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        head: HeadFunction[Any] | None = None,
        rows: HeadRows | None = None,
        logits_to_keep: int | Tensor = 0,
        labels: None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if labels is not None:
            raise ValueError("labels: a masked model has no next-token loss; apply dmpo.WDCELoss to the logits")
        if rows is not None:
            kwargs["head_rows"] = rows.shifted(self.prediction_shift)
        if self.block_size and input_ids is not None:
            attention_mask = self._block_causal(input_ids, attention_mask, kwargs.get("past_key_values"))
        output = self.model(
            input_ids=input_ids,
            attention_mask=self._additive_if_eager(attention_mask),
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        hidden = output.last_hidden_state  # [N, L, H]; with rows [N, Q, H] or [M, H]
        if self.prediction_shift and rows is None:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
        if head is not None:
            return _plain_head(self)(hidden, head)
        if rows is None:
            hidden = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        result = CausalLMOutputWithPast(
            logits=self.lm_head(hidden),
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
        return result.to_tuple() if return_dict is False else result

    @property
    def block_size(self) -> int | None:
        """The tokens of a block where attention is block-causal; None where every token attends to every other."""
        size: int | None = getattr(self.config, "block_size", None)
        return size

    def _block_causal(self, input_ids: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """The block-causal mask of all columns. A mask [N, 1, L, L] that differs between its queries, or that comes
        with a cache, is taken as it is: `two_copies` or `cached_block_mask` made it."""
        if cache is not None:
            if mask is None or mask.ndim != 4:
                raise ValueError("with past_key_values a block-causal model needs a mask [N, 1, L, S] of its blocks")
            return mask
        assert self.block_size is not None
        if mask is None:
            mask = torch.ones_like(input_ids)
        if mask.ndim == 4:
            if mask.shape[2] > 1 and mask.stride(2) != 0:
                return mask
            mask = mask[:, 0, 0]
        return block_causal_mask(mask.bool(), self.block_size)

    def _additive_if_eager(self, mask: Tensor | None) -> Tensor | None:
        # Eager attention adds a ready-made [N, 1, L, S] mask to the scores; as 0 and 1 it would mask nothing.
        if mask is None or mask.ndim != 4 or mask.is_floating_point() or self.config._attn_implementation != "eager":
            return mask
        return torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill(
            ~mask.bool(), torch.finfo(self.dtype).min
        )

    @classmethod
    def can_generate(cls) -> bool:
        return False

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a masked diffusion model is not decoded left to right; use dmpo.generate")


class MaskedLlama(MaskedLM, LlamaForCausalLM):
    """Bidirectional Llama; LLaDA is one."""

    config_class = LlamaConfig
    official_architecture = "LlamaForCausalLM"


class MaskedQwen2(MaskedLM, Qwen2ForCausalLM):
    """Bidirectional Qwen2."""

    config_class = Qwen2Config
    official_architecture = "Qwen2ForCausalLM"


class MaskedQwen3(MaskedLM, Qwen3ForCausalLM):
    """Bidirectional Qwen3."""

    config_class = Qwen3Config
    official_architecture = "Qwen3ForCausalLM"


class DreamConfig(Qwen2Config):
    """Qwen2's config under the model type of Dream's checkpoints."""

    model_type = "Dream"


class Dream(MaskedLM, Qwen2ForCausalLM):
    """Bidirectional Qwen2 that predicts position j at j-1 and position 0 at 0, as Dream's own sampler does."""

    config_class = DreamConfig
    official_architecture = "DreamModel"
    prediction_shift = 1


def unwrap(model: nn.Module) -> MaskedLM:
    """The masked language model inside DDP, `torch.compile` and peft wrappers. Raises TypeError if there is none."""
    inner: Any = model
    while not isinstance(inner, MaskedLM):
        if hasattr(inner, "_orig_mod"):  # torch.compile
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model"):  # peft
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "module", None), nn.Module):  # DDP
            inner = inner.module
        else:
            raise TypeError(f"model must come from dmpo.load_model (wrapped or not), got {type(inner).__name__}")
    return inner


def apply_head(
    model: nn.Module,
    head: HeadFunction[T],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    rows: HeadRows | None = None,
    **kwargs: Any,
) -> T:
    """`head(hidden, weight, bias)`, in place of lm_head and inside the model's forward, where its weight is whole.

    Args:
        model: from `load_model`, wrapped or not. The call goes through the wrapper, so its gradient hooks see it.
        head: takes the last hidden states [N, L, H] of `input_ids`, aligned to the predicted position, lm_head's weight
            [V, H] and its bias [V] or None. What has a gradient comes back as a tensor, or in a tuple, list or dict.
        input_ids: int64 [N, L].
        attention_mask: [N, L], 1 at tokens and 0 at padding; or bool [N, 1, L, S], True where attended. None where
            nothing is padded spares building and checking one.
        position_ids: int64 [N, L] or [1, L]; None counts from 0. Rotary positions are relative, so left padding
            changes nothing but rounding.
        rows: the positions whose predictions are read, and of these the rows that are kept. `head` is then given
            hidden [N, Q, H], or [M, H] of the rows kept, in their order; the last layer computes no other. Equal to the
            rows of a whole pass up to rounding, forward and gradient.
        kwargs: for the backbone, e.g. `past_key_values`. A Dream-type model predicts a token at its left neighbour:
            give that neighbour among the inputs, too (`unwrap(model).prediction_shift`).

    Raises TypeError for a model that is not from this module, ValueError if an adapter wraps the head.
    """
    unwrap(model)
    result: T = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, head=head, rows=rows, **kwargs
    )
    return result


def hidden_states(model: nn.Module, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Last hidden states that the head is applied to: [N, L, H], with `rows` [N, Q, H] or [M, H].

    Arguments and errors are as in `apply_head`.
    """
    return apply_head(model, _hidden_only, input_ids, *args, **kwargs)


def lm_head(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits [..., V] of chosen hidden rows [..., H], in the head's dtype. ValueError if an adapter wraps the head."""
    head = _plain_head(model)
    logits: Tensor = head(rows.to(head.weight.dtype))
    return logits


def head_weight(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, H] and bias [V] (None: no bias) of the head, for kernels that never build the logits.

    Of a sharded model only inside `dmpo.distributed.sharding.whole_parameters`; elsewhere see `apply_head`.

    Raises ValueError if an adapter wraps the head or its weight is sharded.
    """
    head = _plain_head(model)
    if isinstance(head.weight, DTensor) or head.weight.shape != (head.out_features, head.in_features):
        raise ValueError(
            "lm_head's weight is sharded over the ranks: use it inside "
            "dmpo.distributed.sharding.whole_parameters(model)"
        )
    return head.weight, head.bias


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for the length of the context, whatever happens in it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def special_ids(model: nn.Module) -> tuple[int, tuple[int, ...]]:
    """Ids of the mask token and of every EOS in the model's config; an empty tuple without one."""
    config = unwrap(model).config
    return config.mask_token_id, listed_ids(config.eos_token_id)


def _hidden_only(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden


def _plain_head(model: nn.Module) -> Head:
    head = unwrap(model).get_output_embeddings()
    if not isinstance(head, Head):
        raise ValueError(
            f"lm_head is wrapped by an adapter ({type(head).__name__}); "
            "leave lm_head out of target_modules and modules_to_save"
        )
    return head
