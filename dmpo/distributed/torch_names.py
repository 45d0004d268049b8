"""The private names of FSDP2 that dmpo uses, for each version of torch. No other file of dmpo uses such names.

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
def _explain_missing_names() -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        raise RuntimeError(
            f"FSDP2 of torch {torch.__version__} lacks a private name that dmpo needs: {error}. Install a tested torch "
            "(`dmpo info` and docs/versions.md name the tested versions), or train with DDP"
        ) from error


def fsdp_modules(model: nn.Module) -> list[Any]:
    """The modules to which `fully_shard` was applied, the outermost first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def parameter_groups(model: nn.Module) -> list[Any]:
    """FSDP2's parameter groups. Each has `is_unsharded` and `post_forward_mesh_info`."""
    groups: list[Any] = []
    with _explain_missing_names():
        for state in (module._get_fsdp_state() for module in fsdp_modules(model)):
            if hasattr(state, "_fsdp_param_groups"):
                groups += state._fsdp_param_groups
            elif state._fsdp_param_group is not None:  # torch 2.11: a module has one group or none
                groups.append(state._fsdp_param_group)
    return groups


def start_root(model: Any) -> None:
    """Register the inner modules with the outermost one, as its first forward would do."""
    with _explain_missing_names():
        model._get_fsdp_state()._lazy_init()


def forget_forwards(model: Any) -> None:
    """Shard every group again, and clear the recorded order of forwards, which the next backward would follow."""
    if hasattr(model, "reset_iter_state"):
        model.reset_iter_state()
        return
    with _explain_missing_names():  # torch 2.11
        model._get_fsdp_state()._comm_ctx.post_forward_order.clear()
        for group in parameter_groups(model):
            group._post_forward_indices.clear()
    for module in fsdp_modules(model):
        module.reshard()
