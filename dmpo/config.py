"""The typed configs: every key of a run, its default, its meaning and what it may be."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .baselines import Baseline
from .config_errors import checked_config
from .decoding_options import WINO_THRESHOLD, WINO_THRESHOLD_BACK, Decoder, DecodingOptions, Remasking

ONE_STEP = ("wd1", "diffu_grpo")  # losses of one-step log-probabilities
SCORED_ONE_STEP = ("diffu_grpo",)  # losses that also score each round on one-step views
_READ_BY = {  # keys that other losses leave unread
    **dict.fromkeys(("weighting", "coeff", "ess_target"), ("wdce", "wddo")),
    **dict.fromkeys(("clip_epsilon", "kl_beta"), ("diffu_grpo",)),
    "prompt_mask_rate": ONE_STEP,
    "wd1_psi": ("wd1",),
    **dict.fromkeys(("wddo_alpha", "wddo_beta"), ("wddo",)),
}
_SHARED = {"alpha": ("wdce", "wddo"), **dict.fromkeys(("baseline", "strength"), ("wdce",))}  # shipped configs set them

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_AT_LEAST_ONE = (
    *("max_prompt_length", "num_prompts", "rollout_batch_size", "buffer_rounds", "max_skipped_steps"),
    *("replicates", "score_views", "max_steps", "gradient_steps", "save_total_limit", "eval_prompts"),
)
_AT_LEAST_ZERO = (
    *("lora_r", "alpha", "strength", "wddo_alpha", "wddo_beta", "eval_temperature", "eval_decode_steps"),
    *("learning_rate", "warmup_steps", "weight_decay", "micro_batch_size", "memory_budget", "save_steps", "eval_steps"),
    *("seed", "reference_refresh_steps", "buffer_min_ess", "log_completions", "kl_beta"),
)


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class DMPOConfig:
    """Everything that defines a run. Defaults are the paper's (docs/maths.md, sections 2 to 8) where it has one.

    Model
        model: checkpoint folder, hub id, or the name of an embedded model.
        dtype: of the weights and the forward; `attn_implementation` as in transformers.
        lora_r: rank of LoRA on all linear layers; 0 trains every weight, with a frozen copy as the reference.
        lora_alpha, lora_dropout: as in peft.
        load_in_4bit: keep the frozen base in 4 bits (NF4, `pip install dmpo[quant]`); needs LoRA.
        gradient_checkpointing: recompute the activations of each block in the backward, for memory.
    Task
        task, task_options: a task of `dmpo.tasks`, or your class as `module:class`, and its arguments.
        reward: your function as `module:function`, in place of the task's own reward; it runs in processes of its own.
        reward_timeout: seconds of one call of it; a completion that takes longer, or crashes it, scores 0.
        max_prompt_length: tokens; a longer prompt is an error, never cut.
    Rollouts
        num_prompts: prompts a round, over all ranks. num_generations: completions of each, the group size G.
        decoder, gen_length, block_length, steps, temperature, threshold, factor, cfg_scale, remasking, wino_threshold,
            wino_threshold_back, compiled, early_stop: as in `dmpo.generate`. Evaluation decodes the same way.
        rollout_batch_size: sequences of one forward without gradient (decoding and scoring).
    Objective
        loss: wdce (weighted denoising cross-entropy) or wddo (weighted direct discriminative optimisation, which has
            no baseline). wddo_alpha, wddo_beta: its α_d and β. Or, to compare with, the published wd1 and diffu_grpo on
            one-step log-probabilities, weighted by advantages.
            Not read by wd1 and diffu_grpo: alpha, coeff, ess_target, weighting, baseline, strength.
            Not read by wddo: baseline, strength.
        prompt_mask_rate: of wd1 and diffu_grpo, the share of prompt tokens that a view masks, in [0, 1).
            wd1_psi: of wd1, ψ. clip_epsilon, kl_beta: of diffu_grpo, ε in (0, 1) and β.
        alpha: temperature of the target p_ref·exp(r/α), in units of reward. coeff: proximal coefficient c in (0, 1].
        ess_target: choose c anew for each group, in [0.01, 0.99], so that its ESS is this; None keeps `coeff`.
        weighting: softmax (of c·(log p_ref − log p_cur + r/α)) or reward (w = r, as it is).
        baseline, strength: weight baseline and how much of it is subtracted. The paper: negative, 1.
        reference_refresh_steps: make the policy its own new reference every so many gradient steps; 0 never.
        replicates: views of each completion a gradient step, R; of the one-step losses prompt masks, of which the
            published runs drew 1. score_views: views for log-probabilities, K.
        mask_rate_min, mask_rate_max, antithetic: how views are drawn.
        truncate_at_eos: count only tokens up to and including the first EOS.
    Buffer
        buffer_rounds: rounds of rollouts kept, K. Each gradient step draws, for every place of a round, one of the
            groups that the last K rounds left there.
        buffer_min_ess: drop a group of an earlier round once softmax(log p_θ − log p_cur) over it has a smaller ESS, a
            share of the group: the policy has left it behind. 0 keeps all, and spares scoring them every round.
    Optimisation
        max_steps: gradient steps in all. gradient_steps: of them a round, F.
        learning_rate, warmup_steps, weight_decay, adam_beta1, adam_beta2, max_grad_norm: AdamW, constant after warm-up.
        micro_batch_size: views of one forward and backward; 0: all at once. The gradient does not depend on it, but for
            the masks of LoRA's dropout.
        memory_budget: GB of a device; above 0, `micro_batch_size` is instead the largest that `dmpo plan` fits into it.
        max_skipped_steps: steps in a row with a loss or gradient that is not finite after which the run stops; each is
            skipped and counted. A completion without a finite log-probability costs its group, not the step.
    Book-keeping
        output_dir: the folder that the run owns. resume: go on from its newest whole checkpoint.
        seed: of everything. save_steps, eval_steps: every so many gradient steps, 0 for only at the end.
        save_total_limit: checkpoints kept, the newest ones; the best one on the validation split stays beside them.
        eval_prompts: held-out prompts of one evaluation; eval_temperature: of its sampled half (the other is greedy).
        eval_decode_steps: model calls of a completion in evaluation, 0 for `steps`.
        report_to: trackers by accelerate's names (tensorboard, wandb, trackio).
        log_completions: rows of a round written to completions.jsonl with prompt, reward and weight; 0 for none.
    """

    model: str
    task: str
    output_dir: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    attn_implementation: str = "sdpa"
    lora_r: int = 128
    lora_alpha: int = 64
    lora_dropout: float = 0.05
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False

    task_options: dict[str, Any] = field(default_factory=dict)
    reward: str | None = None
    reward_timeout: float = 60.0
    max_prompt_length: int = 200

    num_prompts: int = 8
    num_generations: int = 16
    decoder: Decoder = "topk"
    gen_length: int = 256
    block_length: int = 32
    steps: int = 128
    temperature: float = 0.2
    threshold: float | None = None
    factor: float | None = None
    cfg_scale: float = 0.0
    remasking: Remasking = "low_confidence"
    wino_threshold: float = WINO_THRESHOLD
    wino_threshold_back: float = WINO_THRESHOLD_BACK
    compiled: bool = False
    early_stop: bool = True
    rollout_batch_size: int = 16

    loss: Literal["wdce", "wddo", "wd1", "diffu_grpo"] = "wdce"
    wddo_alpha: float = 1.0
    wddo_beta: float = 1.0
    prompt_mask_rate: float = 0.15
    wd1_psi: float = 1.0
    clip_epsilon: float = 0.5
    kl_beta: float = 0.04
    alpha: float = 0.04
    coeff: float = 1.0
    ess_target: float | None = None
    weighting: Literal["softmax", "reward"] = "softmax"
    baseline: Baseline = "negative"
    strength: float = 1.0
    reference_refresh_steps: int = 0
    replicates: int = 4
    score_views: int = 4
    mask_rate_min: float = 0.1
    mask_rate_max: float = 0.9
    antithetic: bool = True
    truncate_at_eos: bool = False

    buffer_rounds: int = 1
    buffer_min_ess: float = 0.0

    max_steps: int = 1000
    gradient_steps: int = 8
    learning_rate: float = 1e-6
    warmup_steps: int = 10
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 0.2
    micro_batch_size: int = 4
    memory_budget: float = 0.0
    max_skipped_steps: int = 20

    seed: int = 0
    resume: bool = False
    save_steps: int = 100
    save_total_limit: int = 2
    eval_steps: int = 100
    eval_prompts: int = 256
    eval_temperature: float = 0.2
    eval_decode_steps: int = 0
    report_to: list[str] = field(default_factory=list)
    log_completions: int = 4

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "≥ 1")
        for name in _AT_LEAST_ZERO:
            _require(name, getattr(self, name), getattr(self, name) >= 0, "≥ 0")
        for name in ("adam_beta1", "adam_beta2", "lora_dropout"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        _require(
            "num_generations", self.num_generations, self.num_generations >= 2, "≥ 2: weights are relative to a group"
        )
        _require("coeff", self.coeff, 0 < self.coeff <= 1, "in (0, 1]")
        if self.ess_target is not None:
            _require("ess_target", self.ess_target, 0 < self.ess_target <= 1, "in (0, 1], or null for a fixed coeff")
            _require("weighting", self.weighting, self.weighting == "softmax", "softmax where ess_target is given")
        _require("buffer_min_ess", self.buffer_min_ess, self.buffer_min_ess <= 1, "in [0, 1]")
        if self.weighting == "reward":
            chosen = self.loss != "wdce" or self.baseline != "negative"
            _require("baseline", self.baseline, chosen, "none, mean or theta where weighting is reward")
        _require("prompt_mask_rate", self.prompt_mask_rate, 0 <= self.prompt_mask_rate < 1, "in [0, 1)")
        _require("clip_epsilon", self.clip_epsilon, 0 < self.clip_epsilon < 1, "in (0, 1)")
        _require("wd1_psi", self.wd1_psi, self.wd1_psi > 0, "> 0")
        _require("load_in_4bit", self.load_in_4bit, not self.load_in_4bit or self.lora_r > 0, "false where lora_r is 0")
        _require("reward_timeout", self.reward_timeout, self.reward_timeout > 0, "> 0")
        _require("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0, "> 0")
        rates = (self.mask_rate_min, self.mask_rate_max)
        _require("mask_rate_min, mask_rate_max", rates, 0 <= rates[0] <= rates[1] <= 1, "0 ≤ min ≤ max ≤ 1")
        decoding_options(self)
        if self.eval_decode_steps:
            try:
                decoding_options(self, steps=self.eval_decode_steps)
            except ValueError as error:
                raise ValueError(f"eval_decode_steps: {error}") from None
        sees_masks = self.decoder != "wino" or self.attn_implementation in ("sdpa", "eager")
        _require("attn_implementation", self.attn_implementation, sees_masks, "sdpa or eager for decoder 'wino'")
        if self.antithetic:
            for name in ("score_views",) if self.loss in ONE_STEP else ("replicates", "score_views"):
                _require(name, getattr(self, name), getattr(self, name) % 2 == 0, "even when antithetic")
        if self.loss == "wddo":  # two independent halves, neither of which holds half a pair of complements
            parts = 4 if self.antithetic else 2
            wanted = f"a multiple of {parts} for loss 'wddo'" + (" with antithetic views" if self.antithetic else "")
            _require("replicates", self.replicates, self.replicates % parts == 0, wanted)
        for name, losses in _READ_BY.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            unread = self.loss not in losses and value != default
            _require(name, value, not unread, f"left at {default} for loss '{self.loss}', which does not read it")
        if self.loss in ONE_STEP:
            differ = self.prompt_mask_rate > 0 or self.replicates == 1
            _require("replicates", self.replicates, differ, "1 where prompt_mask_rate is 0: its views would all agree")


def unread_keys(config: DMPOConfig) -> list[str]:
    """Keys that are not at their defaults and that the config's loss leaves unread; others are refused."""
    defaults = DMPOConfig.__dataclass_fields__
    return [
        name
        for name, losses in _SHARED.items()
        if config.loss not in losses and getattr(config, name) != defaults[name].default
    ]


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class GenerateConfig:
    """Arguments of `dmpo generate`, as in `dmpo.generate`; device as torch names it."""

    device: str = "cpu"
    decoder: Decoder = "topk"
    gen_length: int = 128
    block_length: int = 32
    steps: int = 128
    temperature: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    cfg_scale: float = 0.0
    remasking: Remasking = "low_confidence"
    wino_threshold: float = WINO_THRESHOLD
    wino_threshold_back: float = WINO_THRESHOLD_BACK
    compiled: bool = False
    early_stop: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        decoding_options(self)


def decoding_options(config: DMPOConfig | GenerateConfig, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of `dmpo.generate` that a config holds, with changes.

    Raises:
        ValueError: as `dmpo.generate` would.
    """
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(DecodingOptions)} | changes
    DecodingOptions(**options)
    return options


def _require(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value}")
