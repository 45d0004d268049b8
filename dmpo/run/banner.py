"""What a run is about to do, as a few lines for people, printed once all is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from ..config.keys import DMPOConfig
from ..config.run import RunConfig
from ..kernels.launch import kernel_status
from ..kernels.remask import extension_status
from ..models.masked_lm import unwrap
from ..planning.plan import GB, plan
from ..tasks import Task, size_of
from .epochs import epochs
from .preflight import sharding_of

log = logging.getLogger("dmpo")


def banner(
    config: RunConfig, accelerator: Accelerator, policy: nn.Module, task: Task, step: int
) -> list[tuple[str, str]]:
    """Title and text of each line. A line that cannot be made says so, and never ends the run.

    Args:
        policy: the model that is trained, spread over ranks or not. step: gradient steps that are taken already.
    """
    makers: dict[str, Callable[[], str]] = {
        "model": lambda: _model(config, policy),
        "task": lambda: _task(config, task),
        "ranks": lambda: _ranks(config, accelerator),
        "kernels": lambda: _kernels(accelerator.device),
        "steps": lambda: _steps(config, step),
        "memory": lambda: _memory(config, accelerator, policy),
    }
    return [(title, _text(maker)) for title, maker in makers.items()]


def _text(maker: Callable[[], str]) -> str:
    try:
        return maker()
    except Exception as error:
        log.debug("a line of the banner failed", exc_info=True)
        return f"not known ({type(error).__name__}: {error})"


def _model(config: RunConfig, policy: nn.Module) -> str:
    trained = sum(_count(p) for p in policy.parameters() if p.requires_grad)
    frozen = sum(_count(p) for p in policy.parameters() if not p.requires_grad)
    fields = unwrap(policy).config
    kind = f"{fields.model_type}, {fields.num_hidden_layers} layers, {config.dtype}"
    if config.load_in_4bit:
        kind += ", the base in 4 bits"
    how = f"LoRA of rank {config.lora_r}" if config.lora_r else _all_weights(config)
    return f"{config.model} ({kind}); {trained:,} parameters trained ({how}), {frozen:,} frozen"


def _all_weights(config: RunConfig) -> str:
    return "all weights, beside a frozen copy" if isinstance(config, DMPOConfig) else "all weights"


def _count(parameter: nn.Parameter) -> int:
    """The elements of a whole parameter, also where ZeRO-3 leaves none in place or 4 bits pack two into one."""
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def _task(config: RunConfig, task: Task) -> str:
    rows, held_out = size_of(task, "train"), size_of(task, "test")
    prompts = config.rows_drawn(config.max_steps)
    drawn = f"the run draws {prompts:,} prompts"
    passes = epochs(config, task, config.max_steps)
    known = "rows without end" if rows is None or passes is None else f"{rows:,} training rows"
    often = "" if passes is None else f", {passes:.3g} passes"
    evaluated = min(config.eval_prompts, held_out or config.eval_prompts)
    return f"{config.task}: {known}, {drawn}{often}; an evaluation takes {evaluated:,} held-out rows"


def _ranks(config: RunConfig, accelerator: Accelerator) -> str:
    world, device, threads = accelerator.num_processes, accelerator.device, torch.get_num_threads()
    name = f"cpu, {threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    how = "one rank, not sharded" if world == 1 else f"{world} ranks, {sharding_of(accelerator)}"
    in_fp8 = [text for on, text in ((config.fp8_rollouts, "FP8 rollouts"), (config.fp8_training, "FP8 base")) if on]
    return f"{how}, on {name}; precision {', '.join([config.dtype, *in_fp8])}"


def _kernels(device: torch.device) -> str:
    used, why = kernel_status(device.type)
    built, reason = extension_status()
    losses = why if used else f"plain PyTorch ({why})"
    return f"losses and draw: {losses}; remasking: {'C++ extension' if built else f'plain PyTorch ({reason})'}"


def _steps(config: RunConfig, step: int) -> str:
    begun = f"; {step:,} are taken already" if step else ""
    if not isinstance(config, DMPOConfig):
        return f"{config.max_steps:,} gradient steps of {config.rows_of_step:,} rows{begun}"
    rounds = -(-config.max_steps // config.gradient_steps)
    completions, draws = config.rows_drawn(config.max_steps) * config.num_generations, config.draws_of_round
    more = f", and resampling up to {(draws - 1) * completions:,} more" if draws > 1 else ""
    return (
        f"{config.max_steps:,} gradient steps in {rounds:,} rounds of {config.gradient_steps}; a round has "
        f"{config.num_prompts:,} prompts × {config.num_generations:,} completions, all rounds {completions:,}"
        f"{more}{begun}"
    )


def _memory(config: RunConfig, accelerator: Accelerator, policy: nn.Module) -> str:
    device = accelerator.device
    cuda = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if cuda else None
    planned = plan(
        config,
        unwrap(policy).config,
        gpus=accelerator.num_processes,
        memory=total / GB if total else 80.0,  # of no consequence for the peaks
        sharding=sharding_of(accelerator),
        device="cuda" if cuda else "cpu",
    )
    phase = max(planned.phases, key=planned.peak)
    need = f"about {planned.peak(phase) / GB:.3g} GB at the peak ({phase})"
    if total is None:
        return f"{need} on each rank"
    return f"{need} of {total / GB:.3g} GB of each GPU" + ("" if planned.fits else ": it may not fit, see `dmpo plan`")
