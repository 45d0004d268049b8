"""DeepSpeed's ZeRO: its settings before a model is prepared, its gathered parameters, and its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # the state of a parameter in Adam and AdamW, without the number of steps
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}


def configure(accelerator: Accelerator, *, dtype: str, max_grad_norm: float) -> None:
    """Set up what DeepSpeed does itself: it clips gradients, skips steps that are not finite, and steps in `backward`.

    Raises:
        ValueError: with DeepSpeed, `dtype` differs from the dtype to which the launch config casts every weight;
            without DeepSpeed, the launch config asks for mixed precision.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        if accelerator.mixed_precision != "no":
            raise ValueError(
                f"launched with mixed_precision {accelerator.mixed_precision}, which must be no, because a run "
                f"computes in the dtype of its config ({dtype}); launch with mixed_precision no"
            )
        return
    plugin = accelerator.state.deepspeed_plugin
    settings = plugin.deepspeed_config
    precision = next((name for name in ("bf16", "fp16") if settings.get(name, {}).get("enabled")), "no")
    if dtype != _DTYPES[precision]:
        raise ValueError(
            f"dtype must be {_DTYPES[precision]}, because DeepSpeed was launched with mixed_precision {precision}, got "
            f"{dtype}; change dtype or the launch"
        )
    settings["train_micro_batch_size_per_gpu"] = 1  # DeepSpeed insists on it; we use no data loader
    settings["gradient_accumulation_steps"] = 1
    settings["gradient_clipping"] = max_grad_norm
    if precision == "bf16":
        settings["bf16"]["check_grad_overflow"] = True


def zero_stage(model: nn.Module) -> int:
    """The ZeRO stage, 1 to 3, of DeepSpeed's engine; 0 for any other model, and without ZeRO."""
    stage = getattr(model, "zero_optimization_stage", None)
    return stage() if callable(stage) else 0


@contextmanager
def gathered_parameters(engine: Any) -> Iterator[None]:
    """For stage 3: every rank has every parameter, and the hooks that gather parameters at each forward are removed."""
    from deepspeed.runtime.zero import GatheredParameters

    offload = engine.optimizer.parameter_offload
    if not offload.forward_hooks:
        yield  # this is inside another context
        return
    with GatheredParameters(list(engine.module.parameters())):
        # deepspeed.zero.unwrap_model_for_generation leaves a hook that waits for all ranks, so it cannot be used.
        offload._remove_module_hooks()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()


def master_weights(parameters: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """The whole float32 master weights by name. All ranks iterate together."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in parameters:
        yield name, safe_get_full_fp32_param(parameter)


def load_master_weights(engine: Any, parameters: list[tuple[str, nn.Parameter]], state: dict[str, Tensor]) -> None:
    """Set the master weights and the weights that are cast from them. Every rank gives the whole state."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in parameters:
        safe_set_full_fp32_param(parameter, state[name].to(engine.device, torch.float32))
    sharded = [parameter for _, parameter in parameters if zero_stage(engine) == 3]
    with GatheredParameters(sharded, modifier_rank=0, enabled=bool(sharded)):
        for name, parameter in parameters:
            parameter.data.copy_(state[name])


def moments(engine: Any, parameters: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """AdamW's state of each parameter as "name/key"; empty before the first step. All ranks iterate together."""
    from deepspeed.utils import safe_get_full_optimizer_state

    state = engine.optimizer.optimizer.state
    flat_states = [state[flat] for flat in _flat_masters(engine) if state.get(flat)]
    for name, parameter in parameters if flat_states else []:
        yield f"{name}/step", flat_states[0]["step"]
        for key in MOMENTS:
            yield f"{name}/{key}", safe_get_full_optimizer_state(parameter, key)


def load_moments(engine: Any, parameters: list[tuple[str, nn.Parameter]], state: dict[str, Tensor]) -> None:
    """Restore the result of `moments`. Every rank gives the whole state."""
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
        engine.optimizer._lazy_init_hp_params_optimizer_state()  # gives each parameter its share of the flat state
    for name, parameter in parameters:
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, state[f"{name}/{key}"].to(engine.device, torch.float32), key)


def _flat_masters(engine: Any) -> list[Tensor]:
    """This rank's share of the master weights, flat. They are the keys of the state of torch's optimiser."""
    name = "fp32_partitioned_groups_flat" if zero_stage(engine) == 3 else "single_partition_of_fp32_groups"
    return list(getattr(engine.optimizer, name))
