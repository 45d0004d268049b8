"""Checks before a run begins, so that no mistake appears hours later."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.checks import unread_keys
from ..config.keys import DMPOConfig
from ..config.run import RunConfig
from ..decoding.factory import make_policy
from ..decoding.generation import options_of_blocks
from ..distributed.ranks import check_launch
from ..models.fp8 import check_fp8_device
from ..models.masked_lm import special_ids, unwrap
from ..models.merged_adapters import check_mergeable
from ..models.tokenizer import encode_prompts
from ..objectives.gradient import objective_of
from ..planning.plan import GB, WITH_ZERO3, Sharding, check_fp8_sharding, check_optimizer_sharding, largest_micro_batch
from ..rewards import RewardPool
from ..rollouts.rollout import training_row
from ..tasks import Task, rows_of_evaluation
from ..tasks.verdict import judge
from .optimizer import check_optimizer

Run = TypeVar("Run", bound=RunConfig)

log = logging.getLogger("dmpo")


def check_ranks(config: RunConfig, accelerator: Accelerator) -> None:
    """Raise ValueError unless the launch worked, every rank has work and the trackers exist."""
    check_launch(accelerator)
    world = accelerator.num_processes
    if config.rows_of_step < world:
        raise ValueError(f"{config.ROWS} is {config.rows_of_step}, must be at least the {world} ranks")
    if config.eval_prompts < world:
        raise ValueError(f"eval_prompts {config.eval_prompts} must be at least the {world} ranks")
    if config.merge_adapters and sharding_of(accelerator) == "zero3":
        raise ValueError(f"merge_adapters must be false {WITH_ZERO3}")
    if config.compile == "layers" and sharding_of(accelerator) == "zero3":
        raise ValueError(
            "compile 'layers' does not go with DeepSpeed ZeRO-3, which gathers weights inside a layer; use FSDP2, or "
            "compile=none"
        )
    own_masters = accelerator.distributed_type == DistributedType.DEEPSPEED and sharding_of(accelerator) == "ddp"
    sharding = "zero2" if own_masters else sharding_of(accelerator)  # stage 1 is as stage 2 here
    check_fp8_sharding(config, sharding)
    check_optimizer_sharding(config, sharding)
    check_optimizer(config, accelerator.device)
    if config.fp8_rollouts:
        check_fp8_device(accelerator.device, speaks=accelerator.is_main_process)
    if missing := set(config.report_to) - {str(tracker) for tracker in get_available_trackers()}:
        raise ValueError(
            f"report_to: unknown or not installed: {', '.join(sorted(missing))}; install it, or leave it out"
        )


def check_own_names(config: DMPOConfig) -> None:
    """Raise ValueError unless a loss and a decoder of the user's own can be imported and are of the right kind."""
    objective_of(config)
    make_policy(config)


def warn_unread_keys(config: DMPOConfig, *, enabled: bool) -> None:
    """Warn, in one line, about keys that were set but that the loss does not read; `enabled` on one rank."""
    if enabled and (keys := unread_keys(config)):
        log.warning("loss %s does not read %s", config.loss, ", ".join(f"{k}={getattr(config, k)}" for k in keys))


def check_held_out(config: RunConfig, task: Task, accelerator: Accelerator) -> None:
    """Warn, in one line, if an evaluation has fewer rows than eval_prompts.

    Raises:
        ValueError: it has fewer rows than ranks.
    """
    counts = {split: rows_of_evaluation(task, split, config.eval_prompts) for split in ("validation", "test")}
    for split, count in counts.items():
        if count < accelerator.num_processes:
            raise ValueError(
                f"the {split} split has {count} rows, must be at least the {accelerator.num_processes} ranks; hold out "
                "more rows, or give fewer ranks"
            )
    if accelerator.is_main_process and min(counts.values()) < config.eval_prompts:
        held_out = " and ".join(f"{count} rows of {split}" for split, count in counts.items())
        log.warning("eval_prompts is %d, but evaluations have all there are: %s", config.eval_prompts, held_out)


def check_task(config: DMPOConfig, task: Task, reward: RewardPool, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for a wrong reward, for a task that raises on an empty completion, or if one of the prompts of
    this run is too long."""
    drawn = config.rows_drawn(config.max_steps) * config.draws_of_round
    rows = [training_row(task, config.seed, index) for index in range(drawn)]
    held_out = [
        task.row(split, index)
        for split in ("validation", "test")
        for index in range(rows_of_evaluation(task, split, config.eval_prompts))
    ]
    encode_prompts(tokenizer, rows + held_out, config.max_prompt_length)
    reward.check(rows[0])
    if message := judge(task, "", held_out[0]).message:
        raise ValueError(f"task {config.task} fails on an empty completion: {message}")


def check_model(config: RunConfig, policy: nn.Module) -> None:
    """Raise ValueError if the model cannot do what the config requires."""
    model = unwrap(policy)
    longest = config.max_prompt_length + config.gen_length
    if longest > model.config.max_position_embeddings:
        limit = model.config.max_position_embeddings
        raise ValueError(
            f"max_prompt_length + gen_length is {longest}, the model takes {limit} tokens: shorten one of them"
        )
    _, eos_ids = special_ids(model)
    for name in ("early_stop", "truncate_at_eos"):
        if getattr(config, name, False) and not eos_ids:
            raise ValueError(f"{name} needs an EOS token, and the model's config names none: set {name}=false")
    options_of_blocks(policy, config)
    if config.merge_adapters:
        check_mergeable(policy)
    if not config.lora_r and config.dtype != "float32":
        log.warning("training every weight in %s loses updates below its resolution; set dtype=float32", config.dtype)


def fit_micro_batch(config: Run, policy: nn.Module, accelerator: Accelerator) -> Run:
    """The config with the largest micro_batch_size that fits memory_budget, if that is set; a log line names it.

    Raises:
        ValueError: a micro-batch of one view does not fit, or a rollout does not.
    """
    if not config.memory_budget:
        return config
    size = largest_micro_batch(
        config,
        unwrap(policy).config,
        int(config.memory_budget * GB),
        accelerator.num_processes,
        sharding=sharding_of(accelerator),
        device="cuda" if accelerator.device.type == "cuda" else "cpu",
    )
    if accelerator.is_main_process:
        log.warning("memory_budget %g GB: micro_batch_size is %d", config.memory_budget, size)
    return dataclasses.replace(config, micro_batch_size=size)


def sharding_of(accelerator: Accelerator) -> Sharding:
    """The sharding of a launch, as `dmpo plan` names it."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        shardings: dict[int, Sharding] = {2: "zero2", 3: "zero3"}
        return shardings.get(accelerator.state.deepspeed_plugin.zero_stage, "ddp")
    return "fsdp" if kind == DistributedType.FSDP else "ddp"


def fingerprint(model: nn.Module) -> str | None:
    """A digest of a model's loaded weights, to recognise the model: names, shapes, 16 values of each.

    LoRA weights are left out: a checkpoint has them. None if DeepSpeed has already sharded the weights.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            continue
        if not weight.numel():
            return None
        values = weight.detach().flatten()
        samples = torch.linspace(0, len(values) - 1, 16, dtype=torch.float64).long()
        sample = values[samples.to(values.device)].tolist()
        state.update(f"{name} {tuple(weight.shape)} {sample}\n".encode())
    return state.hexdigest()
