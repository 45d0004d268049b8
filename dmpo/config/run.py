"""The keys that every run has, whatever it learns from: model, task, optimiser and book-keeping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from .decoding import DecodingOptions
from .token_ids import TokenIds


@dataclass(kw_only=True)
class RunConfig(DecodingOptions, TokenIds):
    """The keys of `DMPOConfig` and of `SFTConfig` that mean the same. `DecodingOptions` has the keys of decoding."""

    KEYS_OF_HEIRS: ClassVar[bool] = True  # they stand among the own keys of a class that inherits them

    # Model
    model: str
    """checkpoint folder, hub id, or the name of an embedded model, which has values of its own for keys that are left
    out (`config/shipped/embedded`)"""
    task: str = "prompts"
    """a task of `dmpo.tasks`, or your class as `module:class`"""
    output_dir: str
    """the folder that the run owns"""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """of the weights and the forward"""
    attn_implementation: str = "sdpa"
    """as in transformers"""
    lora_r: int = 128
    """rank of LoRA; 0 trains every weight, with a frozen copy as the reference"""
    lora_alpha: int = 64
    """as in peft"""
    lora_dropout: float = 0.05
    """as in peft"""
    lora_target_modules: list[str] | str = "all-linear"
    """names of the linear layers that LoRA adapts in every block, such as [q_proj, v_proj]; all-linear for all of
    them"""
    load_in_4bit: bool = False
    """keep the frozen base in 4 bits (NF4, `pip install dmpo[quant]`); needs LoRA"""
    fp8_rollouts: bool = False
    """multiply in FP8 (e4m3) in the linear layers of the blocks while rollouts and evaluations decode; the weights are
    rounded anew at each phase. The rounding shows in `rollout_mismatch`. A CPU emulates it, slowly"""
    fp8_training: bool = False
    """keep the frozen base in FP8 alone, for scoring and updates, too; needs LoRA and fp8_rollouts"""
    gradient_checkpointing: bool = False
    """recompute the activations of each block in the backward, for memory"""
    compile: Literal["none", "layers"] = "none"
    """layers: torch.compile fuses all decoder layers but the last, for rollouts, scores and updates; it takes a minute
    or more at the start of a run, and changes results by rounding and by the masks of LoRA's dropout"""

    # Rollouts
    rollout_batch_size: int = 16
    """sequences of one forward without gradient (decoding and scoring); scoring takes more of short prompts, up to as
    many tokens"""
    merge_adapters: bool = False
    """merge LoRA into the weights while rollouts and evaluations decode: half the kernels of a pass, for a second copy
    of the adapted weights. Afterwards the policy is bit for bit what it was. `rollout_mismatch` shows the rounding"""

    # Task
    task_options: dict[str, Any] = field(default_factory=dict)
    """arguments of the task"""
    max_prompt_length: int = 200
    """tokens; a longer prompt is an error, it is never cut"""

    # Optimisation
    max_steps: int = 1000
    """gradient steps in all"""
    optim: Literal["adamw", "adamw_torch", "adamw_8bit", "adamw_bnb_8bit"] = "adamw"
    """adamw (PyTorch's; adamw_torch is the same) or adamw_8bit (bitsandbytes' AdamW with its two moments in 8 bits,
    `pip install dmpo[quant]`; adamw_bnb_8bit is the same)"""
    learning_rate: float = 1e-6
    """of AdamW, the highest of the run"""
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """the learning rate after the warm-up: constant (constant_with_warmup is the same), or falling to 0 at max_steps on
    transformers' linear or cosine curve"""
    warmup_steps: int = 10
    """gradient steps in which the learning rate rises from 0"""
    weight_decay: float = 0.1
    """of AdamW"""
    adam_beta1: float = 0.9
    """of AdamW"""
    adam_beta2: float = 0.99
    """of AdamW"""
    max_grad_norm: float = 0.2
    """a gradient with a larger norm is scaled down to this norm"""
    micro_batch_size: int = 4
    """views of one forward and backward, 0 for all at once. It counts views of max_prompt_length + gen_length tokens:
    of shorter prompts more pass together, up to as many tokens. It changes the gradient by the masks of LoRA's dropout
    alone"""
    memory_budget: float = 0.0
    """GB of a device; above 0, micro_batch_size is instead the largest that `dmpo plan` fits into it"""
    max_skipped_steps: int = 20
    """so many steps in a row whose loss or gradient is not finite end the run; each is skipped and counted. A
    completion without a finite log-probability costs its group, not the step"""

    # Book-keeping
    resume: bool = False
    """continue from the newest whole checkpoint of output_dir"""
    save_steps: int = 100
    """gradient steps between checkpoints; 0 for one at the end alone"""
    save_total_limit: int = 2
    """newest checkpoints that are kept; the best one on the validation split stays beside them"""
    eval_steps: int = 100
    """gradient steps between evaluations; 0 for one at the end alone"""
    eval_prompts: int = 256
    """held-out prompts of one evaluation"""
    eval_temperature: float = 0.2
    """of the sampled half of an evaluation; the other half is greedy"""
    eval_decode_steps: int = 0
    """model calls of a completion in evaluation; 0 for `steps`"""
    report_to: list[str] = field(default_factory=list)
    """trackers by accelerate's names (tensorboard, wandb, trackio)"""
    run_name: str | None = None
    """the name of the run in the trackers that name runs (wandb, trackio, ...); null for the name of output_dir"""
    logging_steps: int = 1
    """gradient steps between reports to the trackers and between progress lines in a log file; metrics.jsonl has every
    step"""
    log_completions: int = 4
    """completions of a round that are written to completions.jsonl, those of a prompt together and another prompt each
    round; and held-out rows whose greedy completions go to held_out.jsonl; 0 for none"""

    ROWS: ClassVar[str]  # the keys whose product is `rows_of_step`

    @property
    def rows_of_step(self) -> int:
        """The rows, over all ranks, that a gradient step learns from."""
        raise NotImplementedError

    @property
    def round_steps(self) -> int:
        """The gradient steps of a round, in which the rows stay the same."""
        return 1

    def rows_drawn(self, steps: int) -> int:
        """The training rows that so many gradient steps draw."""
        raise NotImplementedError
