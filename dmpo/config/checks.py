"""What the keys of a run must be, alone and together.

Each function takes a `DMPOConfig`. Its module imports this one, so the type is not named here.
"""

from __future__ import annotations

from typing import Any

from .decoding import decoding_options, default_of
from .names import Names, is_own_name

LOSSES = ("wdce", "wddo", "wd1", "diffu_grpo")
ONE_STEP = ("wd1", "diffu_grpo")  # losses of one-step log-probabilities
SCORED_ONE_STEP = ("diffu_grpo",)  # losses that also score each round on one-step views
_READ_BY = {  # keys that other losses leave unread; a loss of the user's own may read every key
    **dict.fromkeys(("weighting", "coeff", "ess_target"), ("wdce", "wddo")),
    **dict.fromkeys(("clip_epsilon", "kl_beta"), ("diffu_grpo",)),
    "prompt_mask_rate": ONE_STEP,
    "wd1_psi": ("wd1",),
    **dict.fromkeys(("wddo_alpha", "wddo_beta"), ("wddo",)),
}
_SHARED = {"alpha": ("wdce", "wddo"), **dict.fromkeys(("baseline", "strength"), ("wdce",))}  # shipped configs set them
_ONE_PACKING = "false where load_in_4bit is true, because a weight is in 4 bits or in FP8"
_ROUNDED_AWAY = "false where fp8_training is true: added to FP8 weights, small adapters would be rounded away"
_AT_LEAST_ONE = (
    *("max_prompt_length", "num_prompts", "rollout_batch_size", "buffer_rounds", "max_skipped_steps"),
    *("replicates", "score_views", "max_steps", "gradient_steps", "save_total_limit", "eval_prompts"),
    "logging_steps",
)
_AT_LEAST_ZERO = (
    *("lora_r", "alpha", "strength", "wddo_alpha", "wddo_beta", "eval_temperature", "eval_decode_steps"),
    *("learning_rate", "warmup_steps", "weight_decay", "micro_batch_size", "memory_budget", "save_steps", "eval_steps"),
    *("seed", "reference_refresh_steps", "buffer_min_ess", "log_completions", "kl_beta"),
)


_SAME = {"adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit", "constant_with_warmup": "constant"}


def usual_values(config: Any) -> dict[str, Any]:
    """The keys that transformers' users may write in another way, with the values that dmpo reads."""
    targets = config.lora_target_modules
    return {
        **{name: _SAME.get(getattr(config, name), getattr(config, name)) for name in ("optim", "lr_scheduler_type")},
        "lora_target_modules": [targets] if isinstance(targets, str) and targets != "all-linear" else targets,
    }


def check_keys_of_run(config: Any) -> None:
    """Raise ValueError for a key that is out of range, or for keys that do not go together."""
    Names(LOSSES).check("loss", config.loss)
    for name in _AT_LEAST_ONE:
        _require(name, getattr(config, name), getattr(config, name) >= 1, "≥ 1")
    for name in _AT_LEAST_ZERO:
        _require(name, getattr(config, name), getattr(config, name) >= 0, "≥ 0")
    for name in ("adam_beta1", "adam_beta2", "lora_dropout"):
        _require(name, getattr(config, name), 0 <= getattr(config, name) < 1, "in [0, 1)")
    _require(
        "num_generations", config.num_generations, config.num_generations >= 2, "≥ 2: weights are relative to a group"
    )
    _require("coeff", config.coeff, 0 < config.coeff <= 1, "in (0, 1]")
    if config.ess_target is not None:
        _require("ess_target", config.ess_target, 0 < config.ess_target <= 1, "in (0, 1], or null for a fixed coeff")
        _require("weighting", config.weighting, config.weighting == "softmax", "softmax where ess_target is given")
    _require("buffer_min_ess", config.buffer_min_ess, config.buffer_min_ess <= 1, "in [0, 1]")
    if config.weighting == "reward":
        chosen = config.loss != "wdce" or config.baseline != "negative"
        _require("baseline", config.baseline, chosen, "none, mean or theta where weighting is reward")
    _require("prompt_mask_rate", config.prompt_mask_rate, 0 <= config.prompt_mask_rate < 1, "in [0, 1)")
    _require("clip_epsilon", config.clip_epsilon, 0 < config.clip_epsilon < 1, "in (0, 1)")
    _require("wd1_psi", config.wd1_psi, config.wd1_psi > 0, "> 0")
    _require(
        "load_in_4bit", config.load_in_4bit, not config.load_in_4bit or config.lora_r > 0, "false where lora_r is 0"
    )
    targets = config.lora_target_modules
    _require("lora_target_modules", targets, bool(targets), "all-linear or a list of names")
    _require(
        "lora_target_modules", targets, len(set(targets)) == len(targets) or targets == "all-linear", "without repeats"
    )
    all_trained = config.lora_r > 0 or targets == "all-linear"
    _require(
        "lora_target_modules", targets, all_trained, "left at all-linear where lora_r is 0, which trains every weight"
    )
    merges = not config.merge_adapters or config.lora_r > 0
    _require("merge_adapters", config.merge_adapters, merges, "false where lora_r is 0: there is nothing to merge")
    _require("fp8_rollouts", config.fp8_rollouts, not config.fp8_rollouts or not config.load_in_4bit, _ONE_PACKING)
    for name, needs in (("fp8_rollouts", config.fp8_rollouts), ("lora_r above 0", config.lora_r > 0)):
        _require("fp8_training", config.fp8_training, not config.fp8_training or needs, f"false without {name}")
    apart = not (config.merge_adapters and config.fp8_training)
    _require("merge_adapters", config.merge_adapters, apart, _ROUNDED_AWAY)
    _check_rewards(config)
    _require("reward_timeout", config.reward_timeout, config.reward_timeout > 0, "> 0")
    _require("max_grad_norm", config.max_grad_norm, config.max_grad_norm > 0, "> 0")
    rates = (config.mask_rate_min, config.mask_rate_max)
    _require("mask_rate_min, mask_rate_max", rates, 0 <= rates[0] <= rates[1] <= 1, "0 ≤ min ≤ max ≤ 1")
    if config.eval_decode_steps:
        try:
            decoding_options(config, steps=config.eval_decode_steps)
        except ValueError as error:
            raise ValueError(f"eval_decode_steps: {error}") from None
    sees_masks = config.decoder != "wino" or config.attn_implementation in ("sdpa", "eager")
    _require("attn_implementation", config.attn_implementation, sees_masks, "sdpa or eager for decoder 'wino'")
    if config.antithetic:
        any_replicates = config.loss in ONE_STEP or is_own_name(config.loss)  # an own loss may draw other views
        for name in ("score_views",) if any_replicates else ("replicates", "score_views"):
            _require(name, getattr(config, name), getattr(config, name) % 2 == 0, "even when antithetic")
    if config.loss == "wddo":  # two independent halves, and no pair of complements is split between them
        divisor = 4 if config.antithetic else 2
        multiple = f"a multiple of {divisor} for loss 'wddo'" + (" with antithetic views" if config.antithetic else "")
        _require("replicates", config.replicates, config.replicates % divisor == 0, multiple)
    for name, losses in _READ_BY.items():
        value, default = getattr(config, name), default_of(type(config), name)
        unread = not _reads(config.loss, losses) and value != default
        _require(name, value, not unread, f"left at {default} for loss '{config.loss}', which does not read it")
    if config.loss in ONE_STEP:
        differ = config.prompt_mask_rate > 0 or config.replicates == 1
        _require("replicates", config.replicates, differ, "1 where prompt_mask_rate is 0: its views would all agree")


def unread_keys(config: Any) -> list[str]:
    """Keys that are not at their defaults and that the config's loss leaves unread; others are refused."""
    return [
        name
        for name, losses in _SHARED.items()
        if not _reads(config.loss, losses) and getattr(config, name) != default_of(type(config), name)
    ]


def _check_rewards(config: Any) -> None:
    if not config.rewards and not config.reward_weights:
        return
    _require("reward", config.reward, config.reward is None, "left out where rewards or reward_weights are given")
    if config.rewards:
        from ..rewards.entries import read_entries, read_weights  # takes a quarter of a second, which few configs need

        read_weights(config.reward_weights, len(read_entries(config.rewards)))


def masks_whole_completions(loss: str, *, scoring: bool = False) -> bool:
    """Whether a view of a loss may mask a whole completion; `scoring`: a view on which the loss scores a round.

    Nothing is known of a loss of the user's own, so the largest views are expected.
    """
    return loss in (SCORED_ONE_STEP if scoring else ONE_STEP) or is_own_name(loss)


def _reads(loss: str, losses: tuple[str, ...]) -> bool:
    return loss in losses or is_own_name(loss)


def _require(name: str, value: object, holds: bool, description: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {description}, got {value}")
