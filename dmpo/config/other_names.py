"""Names of TRL, transformers, peft and unsloth that are no keys here, and what to write instead.

docs/coming-from-trl.md says more of each.
"""

from __future__ import annotations

from collections.abc import Iterable

PAGE = "docs/coming-from-trl.md"

# A name that has the same meaning here under another name. The value names keys, and says how they are computed.
RENAMED = {
    "max_completion_length": "gen_length",
    "max_new_tokens": "gen_length",
    "model_name": "model",
    "model_name_or_path": "model",
    "reward_funcs": "rewards",
    "train_dataset": "task=prompts with task_options.train",
    "eval_dataset": "task=prompts with task_options.test",
    "dataset_name": "task=prompts with task_options.train",
    "per_device_train_batch_size": "micro_batch_size (views of one pass) and num_prompts (prompts of a round)",
    "per_device_eval_batch_size": "rollout_batch_size",
    "generation_batch_size": "num_prompts (prompts of a round) and rollout_batch_size (sequences of a forward)",
    "gradient_accumulation_steps": "micro_batch_size: a gradient step uses all views, so many at a time",
    "steps_per_generation": "gradient_steps",
    "num_iterations": "gradient_steps",
    "num_train_epochs": "max_steps; summary.json says how many epochs they were",
    "torch_dtype": "dtype",
    "bf16": "dtype=bfloat16",
    "fp16": "dtype=float16",
    "gradient_checkpointing_kwargs": "gradient_checkpointing",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "gpu_memory_utilization": "memory_budget, in GB",
    "max_lora_rank": "lora_r",
    "torch_compile": "compile=layers",
    "lr_scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",
    "optimizer": "optim",
    "r": "lora_r",
    "lora_rank": "lora_r",
    "target_modules": "lora_target_modules",
    "use_peft": "lora_r; 0 trains every weight",
    "resume_from_checkpoint": "resume=true",
    "overwrite_output_dir": "another output_dir, or resume=true",
    "epsilon": "clip_epsilon, of loss diffu_grpo alone",
    "beta": "kl_beta, of loss diffu_grpo alone; in dmpo the target is p_ref·exp(r/alpha), so alpha holds the policy",
    "loss_type": "loss",
    "ref_model_sync_steps": "reference_refresh_steps",
    "sync_ref_model": "reference_refresh_steps",
    "num_completions_to_print": "log_completions",
    "random_state": "seed",
    "data_seed": "seed",
    "eval_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "logging_strategy": "logging_steps",
    "max_seq_length": "max_prompt_length and gen_length",
}

_OWN_DECODERS = "vLLM decodes from left to right; a masked diffusion model has decoders of its own (decoder)"
_ADAPTERS_ALONE = (
    "LoRA trains adapters alone: the reference policy is the base with adapters off, and the losses read lm_head "
    "without adapters; lora_r=0 trains every weight"
)

# A name that has no counterpart, and why.
LEFT_OUT = {
    **dict.fromkeys(("use_vllm", "fast_inference"), _OWN_DECODERS),
    "scale_rewards": "weights are a softmax within the group, so a constant or a scale of rewards goes into alpha",
    **dict.fromkeys(("top_p", "top_k", "min_p"), "decoders draw from the distribution that the loss scores"),
    "repetition_penalty": "a penalty belongs into a reward (docs/rewards.md)",
    "mask_truncated_completions": "all completions have gen_length tokens; truncate_at_eos counts those up to EOS",
    "importance_sampling_level": "weights are of whole completions",
    "ref_model_mixup_alpha": "reference_refresh_steps copies the policy, and mixes nothing",
    "disable_dropout": "lora_dropout=0 has the same effect; scores are without dropout anyway",
    **dict.fromkeys(("modules_to_save", "lora_modules_to_save"), _ADAPTERS_ALONE),
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "a script calls trainer.push_to_hub, on all ranks together"),
    "load_in_8bit": "load_in_4bit or fp8_training packs the base",
    "load_best_model_at_end": "the best checkpoint on the validation split is kept; dmpo eval and dmpo merge read it",
    "remove_unused_columns": "a reward takes the columns that it names",
}


def hint(name: str, keys: Iterable[str]) -> str | None:
    """What to write here instead of another package's name; None if the name is a key here, or is unknown."""
    if name in keys:
        return None
    reason = _OWN_DECODERS if name.startswith("vllm_") else LEFT_OUT.get(name)
    if reason is not None:
        return f"dmpo has none, because {reason} ({PAGE})"
    return f"here it is {RENAMED[name]} ({PAGE})" if name in RENAMED else None
