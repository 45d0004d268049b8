"""Models whose parameters are spread over ranks (FSDP2, DeepSpeed): whole for a while, and whole for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from . import torch_names, zero


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[Any]:
    """Every parameter whole on every rank, for forwards without gradient; none of them waits for another rank.

    Decoding and scoring need another number of forwards on each rank, while a forward of a sharded model waits for all.
    Ranks enter and leave together. A context within another one does nothing; where nothing is sharded, neither.
    Inside, parameters are read only, and a device holds all of them in their own dtype.

    Args:
        model: what `accelerator.prepare` made of it.

    Yields:
        The model inside DDP and DeepSpeed, which is the one to call.
    """
    inner = extract_model_from_parallel(model)
    if zero.zero_stage(model) == 3:
        with zero.whole_parameters(model):
            yield inner
    elif isinstance(inner, FSDPModule):
        with _whole_under_fsdp(inner):
            yield inner
    else:
        yield inner


def full_model_state(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters by name, whole and on the CPU: on rank 0, and {} elsewhere. All ranks call it.

    The names are those of the model before `accelerator.prepare`. Of DeepSpeed they are its float32 masters.
    """
    parameters = _trainable(model)
    return _on_rank_zero(zero.master_weights(parameters) if zero.zero_stage(model) else parameters)


@torch.no_grad()
def load_full_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put `full_model_state` back in place. All ranks call it, each with the whole state.

    Raises:
        ValueError: names or shapes are not those of the trainable parameters.
    """
    parameters = _trainable(model)
    _check_names({name for name, _ in parameters}, set(state))
    if zero.zero_stage(model):
        zero.load_master_weights(model, parameters, state)
        return
    for name, parameter in parameters:
        _fill(name, parameter, state[name])


def full_optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """What the optimiser keeps of each trainable parameter, as "name/key": on rank 0, and {} elsewhere.

    For AdamW the keys are step (a scalar), exp_avg and exp_avg_sq; whole and on the CPU; nothing before the first step.
    Learning rate and the other settings of parameter groups are no part of it. All ranks call it.

    Args:
        model, optimizer: what `accelerator.prepare` made of them.
    """
    if zero.zero_stage(model):
        return _on_rank_zero(zero.moments(model, _trainable(model)))
    kept = _kept(optimizer)
    return _on_rank_zero(
        (f"{name}/{key}", value) for name, parameter in _trainable(model) for key, value in kept[parameter].items()
    )


@torch.no_grad()
def load_full_optimizer_state(model: nn.Module, optimizer: Any, state: dict[str, Tensor]) -> None:
    """Put `full_optimizer_state` back in place. All ranks call it, each with the whole state.

    Raises:
        ValueError: names or shapes are not those of the trainable parameters.
    """
    parameters = dict(_trainable(model))
    if state:
        _check_names(set(parameters), {name.rpartition("/")[0] for name in state})
    if zero.zero_stage(model):
        zero.load_moments(model, list(parameters.items()), state)
        return
    kept = _kept(optimizer)
    for parameter in parameters.values():
        kept[parameter].clear()
    for name, value in state.items():
        owner, _, key = name.rpartition("/")
        own = value.clone()  # a number of steps, which torch keeps on the CPU
        if value.dim():
            own = torch.empty_like(parameters[owner], dtype=value.dtype)
            _fill(name, own, value)
        kept[parameters[owner]][key] = own


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    return [(name, parameter) for name, parameter in inner.named_parameters() if parameter.requires_grad]


def _kept(optimizer: Any) -> dict[Tensor, dict[str, Tensor]]:
    """The state of torch's optimiser by parameter, empty where there is none; inside accelerate's wrapper or not."""
    state: dict[Tensor, dict[str, Tensor]] = getattr(optimizer, "optimizer", optimizer).state
    return state


def _on_rank_zero(shards: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Each tensor whole, one after the other, so that no device holds two."""
    main, whole = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0, {}
    for name, shard in shards:
        value = shard.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value  # all ranks take part
        if main:
            whole[name] = value.to("cpu", copy=True)
    return whole


def _fill(name: str, target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, of which this rank may keep a shard only."""
    if value.shape != target.shape:
        raise ValueError(f"{name} has shape {list(value.shape)}, the model's has {list(target.shape)}")
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):  # each rank has all of it: nothing is sent
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def _check_names(wanted: set[str], found: set[str]) -> None:
    if odd := sorted(wanted ^ found):
        raise ValueError(f"state of another model: {', '.join(odd[:4])} missing or unknown")


@contextmanager
def _whole_under_fsdp(model: FSDPModule) -> Iterator[None]:
    groups = torch_names.parameter_groups(model)  # type: ignore[arg-type]
    torch_names.start_root(model)
    if all(group.is_unsharded and group.post_forward_mesh_info is None for group in groups):
        yield  # within another context
        return
    after_forward = [group.post_forward_mesh_info for group in groups]  # None: stays whole; torch has no public getter
    for module in torch_names.fsdp_modules(model):  # type: ignore[arg-type]
        module.unshard()
    model.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for group, mesh_info in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = mesh_info
        torch_names.forget_forwards(model)  # they differ between ranks
