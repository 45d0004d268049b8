"""Attention as one launch forward and one backward, which it is on a GPU; on the CPU it is its definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.pretend_cuda import counts
from tests.pretend_cuda.tensor import DeviceTensor, on_host

_definition: Any = torch.nn.functional.scaled_dot_product_attention


class _Attention(torch.autograd.Function):
    """The backward makes the graph anew: one that the forward kept would be checkpointed with what is around it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any) -> Tensor:
        counts.launch("attention")
        ctx.save_for_backward(query, key, value, mask)
        ctx.options = options
        return DeviceTensor(_definition(*on_host((query, key, value)), attn_mask=on_host(mask), **options))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        counts.launch("attention backward")
        *inputs, mask = on_host(ctx.saved_tensors)
        leaves = [x.detach().requires_grad_() for x in inputs]
        with torch.enable_grad():
            result = _definition(*leaves, attn_mask=mask, **ctx.options)
        grads = torch.autograd.grad(result, leaves, on_host(grad))
        return (*(DeviceTensor(x) for x in grads), None, None)


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` where its tensors are."""
    if not isinstance(query, DeviceTensor):
        return _definition(query, key, value, attn_mask=attn_mask, **options)
    if attn_mask is not None and not isinstance(attn_mask, DeviceTensor):
        raise RuntimeError("the mask of attention is on the host, beside cuda:0")
    result: Tensor = _Attention.apply(query, key, value, attn_mask, options)
    return result
