"""What the keys of a run must be, alone and together.

Each function takes a `DMPOConfig`; those of all runs take a `RunConfig`. Their modules import this one, so the types
are not named here.
"""

from __future__ import annotations

from typing import Any

from .decoding import decoding_options, default_of
from .names import Names, is_own_name

LOSSES = ("wdce", "wdce_path", "wddo", "rspo", "tb", "wd1", "diffu_grpo")
_WDCE = ("wdce", "wdce_path")
SQUARED = ("rspo", "tb")  # losses that are squared residuals of the target
ONE_STEP = ("wd1", "diffu_grpo")  # losses of one-step log-probabilities
SCORED_ONE_STEP = ("diffu_grpo",)  # losses that also score each round on one-step views
_READ_BY = {  # keys that other losses leave unread; a loss of the user's own may read every key
    **dict.fromkeys(("weighting", "coeff", "ess_target"), (*_WDCE, "wddo")),
    **dict.fromkeys(("clip_epsilon", "kl_beta"), ("diffu_grpo",)),
    "prompt_mask_rate": ONE_STEP,
    "wd1_psi": ("wd1",),
    **dict.fromkeys(("wddo_alpha", "wddo_beta"), ("wddo",)),
}
_SHARED = {
    "alpha": (*_WDCE, "wddo", *SQUARED),
    **dict.fromkeys(("baseline", "strength"), _WDCE),
}  # shipped configs set them
MOST_DRAWS = 100  # of `resample_prompts`: a run checks beforehand that every prompt that it may draw is short enough
_ONE_PACKING = "false where load_in_4bit is true, because a weight is in 4 bits or in FP8"
_ROUNDED_AWAY = "false where fp8_training is true: added to FP8 weights, small adapters would be rounded away"
_OF_ALL_RUNS = {  # keys of every run, and their smallest value
    **dict.fromkeys(("max_prompt_length", "rollout_batch_size", "max_skipped_steps", "max_steps"), 1),
    **dict.fromkeys(("save_total_limit", "eval_prompts", "logging_steps"), 1),
    **dict.fromkeys(("lora_r", "eval_temperature", "eval_decode_steps", "learning_rate", "warmup_steps"), 0),
    **dict.fromkeys(("weight_decay", "micro_batch_size", "memory_budget", "save_steps", "eval_steps", "seed"), 0),
    "log_completions": 0,
}
_AT_LEAST_ONE = ("num_prompts", "buffer_rounds", "replicates", "score_views", "gradient_steps")
_AT_LEAST_ZERO = (
    *("alpha", "strength", "wddo_alpha", "wddo_beta", "reference_refresh_steps", "buffer_min_ess", "kl_beta"),
)


_SAME = {"adamw_torch": "adamw", "adamw_bnb_8bit": "adamw_8bit", "constant_with_warmup": "constant"}


def usual_values(config: Any) -> dict[str, Any]:
    """The keys that transformers' users may write in another way, with the values that dmpo reads."""
    targets = config.lora_target_modules
    return {
        **{name: _SAME.get(getattr(config, name), getattr(config, name)) for name in ("optim", "lr_scheduler_type")},
        "lora_target_modules": [targets] if isinstance(targets, str) and targets != "all-linear" else targets,
    }


def check_keys_of_all_runs(config: Any) -> None:
    """Raise ValueError for a key of `RunConfig` that is out of range, or for such keys that do not go together."""
    for name, least in _OF_ALL_RUNS.items():
        require(name, getattr(config, name), getattr(config, name) >= least, f"≥ {least}")
    for name in ("adam_beta1", "adam_beta2", "lora_dropout"):
        require(name, getattr(config, name), 0 <= getattr(config, name) < 1, "in [0, 1)")
    require(
        "load_in_4bit", config.load_in_4bit, not config.load_in_4bit or config.lora_r > 0, "false where lora_r is 0"
    )
    targets = config.lora_target_modules
    require("lora_target_modules", targets, bool(targets), "all-linear or a list of names")
    require(
        "lora_target_modules", targets, len(set(targets)) == len(targets) or targets == "all-linear", "without repeats"
    )
    all_trained = config.lora_r > 0 or targets == "all-linear"
    require(
        "lora_target_modules", targets, all_trained, "left at all-linear where lora_r is 0, which trains every weight"
    )
    merges = not config.merge_adapters or config.lora_r > 0
    require("merge_adapters", config.merge_adapters, merges, "false where lora_r is 0: there is nothing to merge")
    require("fp8_rollouts", config.fp8_rollouts, not config.fp8_rollouts or not config.load_in_4bit, _ONE_PACKING)
    for name, needs in (("fp8_rollouts", config.fp8_rollouts), ("lora_r above 0", config.lora_r > 0)):
        require("fp8_training", config.fp8_training, not config.fp8_training or needs, f"false without {name}")
    apart = not (config.merge_adapters and config.fp8_training)
    require("merge_adapters", config.merge_adapters, apart, _ROUNDED_AWAY)
    require("max_grad_norm", config.max_grad_norm, config.max_grad_norm > 0, "> 0")
    rates = (config.mask_rate_min, config.mask_rate_max)
    require("mask_rate_min, mask_rate_max", rates, 0 <= rates[0] <= rates[1] <= 1, "0 ≤ min ≤ max ≤ 1")
    if config.eval_decode_steps:
        try:
            decoding_options(config, steps=config.eval_decode_steps)
        except ValueError as error:
            raise ValueError(f"eval_decode_steps: {error}") from None
    sees_masks = config.decoder != "wino" or config.attn_implementation in ("sdpa", "eager")
    require("attn_implementation", config.attn_implementation, sees_masks, "sdpa or eager for decoder 'wino'")


def check_keys_of_run(config: Any) -> None:
    """Raise ValueError for a key that is out of range, or for keys that do not go together."""
    Names(LOSSES).check("loss", config.loss)
    check_keys_of_all_runs(config)
    for name in _AT_LEAST_ONE:
        require(name, getattr(config, name), getattr(config, name) >= 1, "≥ 1")
    for name in _AT_LEAST_ZERO:
        require(name, getattr(config, name), getattr(config, name) >= 0, "≥ 0")
    require(
        "num_generations", config.num_generations, config.num_generations >= 2, "≥ 2: weights are relative to a group"
    )
    require("coeff", config.coeff, 0 < config.coeff <= 1, "in (0, 1]")
    if config.ess_target is not None:
        require("ess_target", config.ess_target, 0 < config.ess_target <= 1, "in (0, 1], or null for a fixed coeff")
        require("weighting", config.weighting, config.weighting == "softmax", "softmax where ess_target is given")
    require("buffer_min_ess", config.buffer_min_ess, config.buffer_min_ess <= 1, "in [0, 1]")
    resample = config.resample_prompts
    require("resample_prompts", resample, 0 <= resample <= MOST_DRAWS, f"in [0, {MOST_DRAWS}]")
    skips = config.skip_equal_rewards or not resample
    require("resample_prompts", resample, skips, "0 where skip_equal_rewards is false; set skip_equal_rewards to true")
    if config.weighting == "reward":
        chosen = config.loss not in _WDCE or config.baseline != "negative"
        require("baseline", config.baseline, chosen, "none, mean or theta where weighting is reward")
    require("prompt_mask_rate", config.prompt_mask_rate, 0 <= config.prompt_mask_rate < 1, "in [0, 1)")
    require("clip_epsilon", config.clip_epsilon, 0 < config.clip_epsilon < 1, "in (0, 1)")
    require("wd1_psi", config.wd1_psi, config.wd1_psi > 0, "> 0")
    _check_rewards(config)
    require("reward_timeout", config.reward_timeout, config.reward_timeout > 0, "> 0")
    _check_views(config)
    if config.antithetic:
        # these draw no pairs, and an own loss may draw other views
        any_replicates = config.loss in (*ONE_STEP, "wdce_path") or is_own_name(config.loss)
        for name in ("score_views",) if any_replicates else ("replicates", "score_views"):
            require(name, getattr(config, name), getattr(config, name) % 2 == 0, "even when antithetic")
    if config.loss == "wdce_path":
        _check_path(config)
    if config.loss in SQUARED:
        require("alpha", config.alpha, config.alpha > 0, f"> 0 for loss '{config.loss}', which divides rewards by it")
    if config.loss in ("wddo", *SQUARED):  # two independent halves, and no pair of complements is split between them
        divisor = 4 if config.antithetic else 2
        multiple = f"a multiple of {divisor} for loss '{config.loss}'" + (
            " with antithetic views" if config.antithetic else ""
        )
        require("replicates", config.replicates, config.replicates % divisor == 0, multiple)
    for name, losses in _READ_BY.items():
        value, default = getattr(config, name), default_of(type(config), name)
        unread = not _reads(config.loss, losses) and value != default
        require(name, value, not unread, f"left at {default} for loss '{config.loss}', which does not read it")
    if config.loss in ONE_STEP:
        differ = config.prompt_mask_rate > 0 or config.replicates == 1
        require("replicates", config.replicates, differ, "1 where prompt_mask_rate is 0: its views would all agree")


def _check_views(config: Any) -> None:
    if config.view_rates != "uniform":
        for name in ("mask_rate_min", "mask_rate_max"):
            value, default = getattr(config, name), default_of(type(config), name)
            left = f"left at {default} where view_rates is {config.view_rates}, which has no limits"
            require(name, value, value == default, left)
    pairs = config.view_rates == "gauss" and config.antithetic
    require("antithetic", config.antithetic, not pairs, "false where view_rates is gauss: a complement is at no node")
    if config.view_positions == "confidence":
        # A loss that compares log p_θ of its views with log p of the scoring views needs views of one kind.
        fits = (config.loss == "wdce" and config.baseline != "theta") or is_own_name(config.loss)
        only = "uniform, except for loss 'wdce' with baseline none, mean or negative (and losses of your own)"
        require("view_positions", config.view_positions, fits, only)


def _check_path(config: Any) -> None:
    """wdce_path: the rollout draws every token, each from the conditional distribution that scoring computes."""
    wanted = {
        "decoder": "random_order",
        "temperature": 1.0,
        "early_stop": False,
        "cfg_scale": 0.0,
        "suffix": "full",
        "logits_eos_inf": False,
    }
    for name, value in wanted.items():
        shown = str(value).lower() if isinstance(value, bool) else value
        require(name, getattr(config, name), getattr(config, name) == value, f"{shown} for loss 'wdce_path'")
    limit = config.replicates <= config.gen_length
    require("replicates", config.replicates, limit, "at most gen_length for loss 'wdce_path', a view for each token")


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
    require("reward", config.reward, config.reward is None, "left out where rewards or reward_weights are given")
    if config.rewards:
        from ..rewards.entries import read_entries, read_weights  # takes a quarter of a second, which few configs need

        read_weights(config.reward_weights, len(read_entries(config.rewards)))


def masks_whole_completions(loss: str, *, scoring: bool = False) -> bool:
    """Whether a view of a loss may mask a whole completion; `scoring`: a view on which the loss scores a round.

    Nothing is known of a loss of the user's own, so the largest views are expected.
    """
    return loss in (SCORED_ONE_STEP if scoring else ONE_STEP) or is_own_name(loss)


def largest_mask_rate(config: Any, *, whole: bool = False) -> float:
    """The largest share of positions that a view masks, limits of its rate aside; `whole`: all of them."""
    return 1.0 if whole or config.view_rates != "uniform" else float(config.mask_rate_max)


def _reads(loss: str, losses: tuple[str, ...]) -> bool:
    return loss in losses or is_own_name(loss)


def require(name: str, value: object, holds: bool, description: str) -> None:
    """Raise ValueError unless a key has a right value; the description says what it must be."""
    if not holds:
        raise ValueError(f"{name} must be {description}, got {value}")
