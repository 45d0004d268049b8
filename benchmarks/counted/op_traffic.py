"""How many bytes does one op of PyTorch read and write at least? Inputs once, outputs once, none for a view.

Gathers and scatters move only the entries that they touch. Both counters use this: `meter` on tensors with values,
`predict.op_counts` on tensors without values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

WRITE_ONLY = {"copy_", "zero_", "fill_", "random_", "uniform_", "normal_", "exponential_"}  # self is not read
UNCOUNTED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_", "_unsafe_view"}
UNCOUNTED |= {"lift_fresh", "_local_scalar_dense", "set_", "is_pinned", "detach_"}
SHAPING = {"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
SELECTING = {"gather", "index", "index_select", "take", "embedding", "masked_select", "nll_loss_forward"}
PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1}  # where the factors start
SCATTERING = {"scatter_", "scatter_add_", "index_put_", "_index_put_impl_", "index_add_", "index_copy_"}


def is_view(func: Any) -> bool:
    """Whether an op returns its inputs in another shape, and moves nothing."""
    aliases = [r.alias_info for r in func._schema.returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


def bytes_moved(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> tuple[int, int]:
    """Bytes (read, written) by one aten op."""
    schema = func._schema.arguments
    given = [*zip(schema, args, strict=False), *((a, kwargs[a.name]) for a in schema if a.name in kwargs)]
    mutated = [x for a, x in given if a.alias_info is not None and a.alias_info.is_write and isinstance(x, Tensor)]
    fixed = [leaf for a, x in given if a.alias_info is None for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    if name in SHAPING:  # of their inputs only the shape is read
        return 0, sum(map(bytes_behind, results))
    if name in SCATTERING:  # reads index and values, reads the touched entries if it adds to them, and writes them
        touched = bytes_behind(fixed[-1]) if fixed else 0
        adds = "add" in name or any(a.name == "accumulate" and x for a, x in given)
        return sum(map(bytes_behind, fixed)) + (touched if adds else 0), touched
    if name in SELECTING:  # only the selected entries of the table are read
        return sum(map(bytes_behind, fixed[1:])) + bytes_behind(results[0]), sum(map(bytes_behind, results))
    fresh = [x for x in results if all(x is not m for m in mutated)]
    is_out = {id(kwargs[a.name]) for a in schema if a.is_out and a.name in kwargs}
    updated = [] if name in WRITE_ONLY else [m for m in mutated if id(m) not in is_out]
    if name == "nll_loss_backward":  # zeros and one entry a row: the log-probabilities are not read
        fixed = [x for x in fixed if x.shape != results[0].shape]
    return sum(map(bytes_behind, fixed + updated)), sum(map(bytes_behind, fresh + mutated))


def bytes_behind(x: Tensor) -> int:
    """Memory behind a tensor: expanded dimensions count once."""
    elements = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        elements *= size if stride or size == 0 else 1
    return elements * x.itemsize
