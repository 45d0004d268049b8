"""DeepSpeed's ZeRO: the settings it wants before a model is prepared, parameters whole for a while, and its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # what Adam and AdamW keep of a parameter, beside the number of steps
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}


def configure(accelerator: Accelerator, *, dtype: str, max_grad_norm: float) -> None:
    """Fill in what DeepSpeed does itself: it clips, skips steps that are not finite, and steps within `backward`.

    Raises:
        ValueError: with DeepSpeed, `dtype` is not the one to which the launch config casts every weight; without it,
            the launch config asks for mixed precision.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        if accelerator.mixed_precision != "no":
            raise ValueError(
                f"launched with mixed_precision {accelerator.mixed_precision}, which must be no: a run computes in its "
                f"own dtype ({dtype})"
            )
        return
    plugin = accelerator.state.deepspeed_plugin
    settings = plugin.deepspeed_config
    precision = next((name for name in ("bf16", "fp16") if settings.get(name, {}).get("enabled")), "no")
    if dtype != _DTYPES[precision]:
        raise ValueError(
            f"dtype must be {_DTYPES[precision]}, got {dtype}: DeepSpeed was launched with mixed_precision {precision}"
        )
    settings["train_micro_batch_size_per_gpu"] = 1  # of a data loader, which there is none of
    settings["gradient_accumulation_steps"] = 1
    settings["gradient_clipping"] = max_grad_norm
    if precision == "bf16":
        settings["bf16"]["check_grad_overflow"] = True


def zero_stage(model: nn.Module) -> int:
    """1 to 3 for DeepSpeed's engine; 0 for whatever else, and without ZeRO."""
    stage = getattr(model, "zero_optimization_stage", None)
    return stage() if callable(stage) else 0


@contextmanager
def whole_parameters(engine: Any) -> Iterator[None]:
    """Of stage 3: every parameter on every rank, and none of the hooks that gather and release at each forward."""
    from deepspeed.runtime.zero import GatheredParameters  # type: ignore[import-not-found]

    offload = engine.optimizer.parameter_offload
    if not offload.forward_hooks:
        yield  # within another context
        return
    with GatheredParameters(list(engine.module.parameters())):
        offload._remove_module_hooks()  # deepspeed.zero.unwrap_model_for_generation leaves one that waits for all ranks
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()


def master_weights(parameters: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """Whole float32 masters by name; all ranks walk through them together."""
    from deepspeed.utils import safe_get_full_fp32_param  # type: ignore[import-not-found]

    for name, parameter in parameters:
        yield name, safe_get_full_fp32_param(parameter)


def load_master_weights(engine: Any, parameters: list[tuple[str, nn.Parameter]], state: dict[str, Tensor]) -> None:
    """Masters, and the weights that are cast from them. Every rank has the whole state."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in parameters:
        safe_set_full_fp32_param(parameter, state[name].to(engine.device, torch.float32))
    sharded = [parameter for _, parameter in parameters if zero_stage(engine) == 3]
    with GatheredParameters(sharded, modifier_rank=0, enabled=bool(sharded)):
        for name, parameter in parameters:
            parameter.data.copy_(state[name])


def moments(engine: Any, parameters: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """AdamW's state of each parameter as "name/key"; all ranks walk through it together. Nothing before a step."""
    from deepspeed.utils import safe_get_full_optimizer_state

    state = engine.optimizer.optimizer.state
    kept = [state[flat] for flat in _flat_masters(engine) if state.get(flat)]
    for name, parameter in parameters if kept else []:
        yield f"{name}/step", kept[0]["step"]
        for key in MOMENTS:
            yield f"{name}/{key}", safe_get_full_optimizer_state(parameter, key)


def load_moments(engine: Any, parameters: list[tuple[str, nn.Parameter]], state: dict[str, Tensor]) -> None:
    """The inverse of `moments`."""
    from deepspeed.utils import safe_set_full_optimizer_state

    inner = engine.optimizer.optimizer.state
    for flat in _flat_masters(engine):
        inner[flat] = {}
        if state:
            inner[flat] = {key: torch.zeros_like(flat) for key in MOMENTS}
            inner[flat]["step"] = next(value for name, value in state.items() if name.endswith("/step")).clone()
    if not state:
        return
    if zero_stage(engine) < 3:
        engine.optimizer._lazy_init_hp_params_optimizer_state()  # each parameter's share of the flat state
    for name, parameter in parameters:
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, state[f"{name}/{key}"].to(engine.device, torch.float32), key)


def _flat_masters(engine: Any) -> list[Tensor]:
    """This rank's part of the masters, under which torch's optimiser keeps its state."""
    name = "fp32_partitioned_groups_flat" if zero_stage(engine) == 3 else "single_partition_of_fp32_groups"
    return list(getattr(engine.optimizer, name))
