"""What torch calls the private parts of FSDP2 that dmpo needs: every such name stands here, for each version of torch.

`dmpo info` says which versions of torch were tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def _of_this_torch() -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        raise RuntimeError(
            f"FSDP2 of torch {torch.__version__} has no such name any more: {error}. Take a torch that was tested, or "
            "train with DDP (`dmpo info` and docs/installing.md name the tested versions)"
        ) from error


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was applied to, the outermost first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def parameter_groups(model: nn.Module) -> list[Any]:
    """FSDP2's groups of parameters; each has `is_unsharded` and `post_forward_mesh_info`."""
    groups: list[Any] = []
    with _of_this_torch():
        for state in (module._get_fsdp_state() for module in fsdp_modules(model)):
            if hasattr(state, "_fsdp_param_groups"):
                groups += state._fsdp_param_groups
            elif state._fsdp_param_group is not None:  # torch 2.11: one a module, or none
                groups.append(state._fsdp_param_group)
    return groups


def start_root(model: Any) -> None:
    """What the first forward of the outermost module would do: it finds the modules inside."""
    with _of_this_torch():
        model._get_fsdp_state()._lazy_init()


def forget_forwards(model: Any) -> None:
    """Shards every group again, and clears the order of forwards that the next backward would follow."""
    if hasattr(model, "reset_iter_state"):
        model.reset_iter_state()
        return
    with _of_this_torch():  # torch 2.11
        model._get_fsdp_state()._comm_ctx.post_forward_order.clear()
        for group in parameter_groups(model):
            group._post_forward_indices.clear()
    for module in fsdp_modules(model):
        module.reshard()
