"""Models whose parameters are sharded over ranks (FSDP2, DeepSpeed): gather them for a while, or for a checkpoint."""

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

QUANTISATION = ("qmap1", "qmap2", "absmax1", "absmax2")  # of bitsandbytes' moments: codes, and scales of blocks


@contextmanager
def whole_parameters(model: nn.Module) -> Iterator[Any]:
    """Inside the context every rank has every parameter whole, for forwards without gradients.

    A forward of a sharded model waits for all ranks, but in decoding and scoring each rank runs another number of
    forwards. Inside the context a forward waits for no rank. All ranks enter and leave together. The context does
    nothing inside another one, or if nothing is sharded. Inside it, parameters must not be changed, and a device has
    all parameters in their own dtype.

    Args:
        model: the result of `accelerator.prepare`.

    Yields:
        The model without the wrappers of DDP and DeepSpeed. Call this model.
    """
    inner = extract_model_from_parallel(model)
    if zero.zero_stage(model) == 3:
        with zero.gathered_parameters(model):
            yield inner
    elif isinstance(inner, FSDPModule):
        with _whole_under_fsdp(inner):
            yield inner
    else:
        yield inner


def full_model_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, whole and on the CPU, on rank 0; {} on the other ranks. All ranks call it.

    The names are the names in the model before `accelerator.prepare`. With DeepSpeed the values are the float32 master
    weights.
    """
    parameters = _trainable(model)
    return _on_rank_zero(zero.master_weights(parameters) if zero.zero_stage(model) else parameters)


@torch.no_grad()
def load_full_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Restore the result of `full_model_state`. All ranks call it, each with the whole state.

    Raises:
        ValueError: the names or shapes differ from the names or shapes of the trainable parameters.
    """
    parameters = _trainable(model)
    _check_names({name for name, _ in parameters}, set(state))
    if zero.zero_stage(model):
        zero.load_master_weights(model, parameters, state)
        return
    for name, parameter in parameters:
        _copy_whole(name, parameter, state[name])


def full_optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """The optimiser's state of each trainable parameter, as "name/key", on rank 0; {} on the other ranks.

    For AdamW the keys are step (a scalar), exp_avg and exp_avg_sq. The tensors are whole and on the CPU; a number, as
    bitsandbytes has for its step, becomes an int64 scalar. Before the first step the state is empty. The learning rate
    and the other settings of parameter groups are not included. All ranks call it.

    Args:
        model, optimizer: the results of `accelerator.prepare`.
    """
    if zero.zero_stage(model):
        return _on_rank_zero(zero.moments(model, _trainable(model)))
    by_parameter = _state_by_parameter(optimizer)
    return _on_rank_zero(
        (f"{name}/{key}", value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64))
        for name, parameter in _trainable(model)
        for key, value in by_parameter[parameter].items()
    )


@torch.no_grad()
def load_full_optimizer_state(model: nn.Module, optimizer: Any, state: dict[str, Tensor]) -> None:
    """Restore the result of `full_optimizer_state`. All ranks call it, each with the whole state.

    Raises:
        ValueError: the names or shapes differ from the names or shapes of the trainable parameters.
    """
    parameters = dict(_trainable(model))
    if state:
        _check_names(set(parameters), {name.rpartition("/")[0] for name in state})
    if zero.zero_stage(model):
        zero.load_moments(model, list(parameters.items()), state)
        return
    by_parameter = _state_by_parameter(optimizer)
    for parameter in parameters.values():
        by_parameter[parameter].clear()
    for name, value in state.items():
        parameter_name, _, key = name.rpartition("/")
        by_parameter[parameters[parameter_name]][key] = _restored(name, parameters[parameter_name], value)


def _restored(name: str, parameter: nn.Parameter, value: Tensor) -> Tensor | int:
    """A value of the optimiser's state of a parameter, as the optimiser keeps it."""
    if not value.dim():  # the number of steps, which PyTorch keeps on the CPU and bitsandbytes as an int
        return int(value) if value.dtype == torch.int64 else value.clone()
    if name.rpartition("/")[2] in QUANTISATION:
        return value.to(parameter.device, copy=True)
    restored = torch.empty_like(parameter, dtype=value.dtype)
    _copy_whole(name, restored, value)
    return restored


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    return [(name, parameter) for name, parameter in inner.named_parameters() if parameter.requires_grad]


def _state_by_parameter(optimizer: Any) -> dict[Tensor, dict[str, Any]]:
    """The state of torch's optimiser for each parameter. `optimizer` may have accelerate's wrapper."""
    state: dict[Tensor, dict[str, Any]] = getattr(optimizer, "optimizer", optimizer).state
    return state


def _on_rank_zero(shards: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Gather the tensors one after the other, so that a device never has two whole ones."""
    main, whole = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0, {}
    for name, shard in shards:
        value = shard.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value  # all ranks take part
        if main:
            whole[name] = value.to("cpu", copy=True)
    return whole


def _copy_whole(name: str, target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into `target`, which may be this rank's shard of it."""
    if value.shape != target.shape:
        raise ValueError(
            f"{name} has shape {list(value.shape)}, but the model needs {list(target.shape)}; give this model's state"
        )
    value = value.to(target.device, target.dtype)
    if isinstance(target, DTensor):  # each rank has the whole value, so nothing is sent
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def _check_names(model_names: set[str], state_names: set[str]) -> None:
    if different := sorted(model_names ^ state_names):
        raise ValueError(f"state of another model: {', '.join(different[:4])} missing or unknown; give the model's own")


@contextmanager
def _whole_under_fsdp(model: FSDPModule) -> Iterator[None]:
    groups = torch_names.parameter_groups(model)  # type: ignore[arg-type]
    torch_names.start_root(model)
    if all(group.is_unsharded and group.post_forward_mesh_info is None for group in groups):
        yield  # this is inside another context
        return
    # None means that the parameters stay whole after a forward. torch has no public getter for it.
    after_forward = [group.post_forward_mesh_info for group in groups]
    for module in torch_names.fsdp_modules(model):  # type: ignore[arg-type]
        module.unshard()
    model.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for group, mesh_info in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = mesh_info
        torch_names.forget_forwards(model)  # because each rank ran other forwards
