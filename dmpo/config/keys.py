"""The typed config of a run: every key, its default and its meaning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from ..losses.baselines import Baseline
from .checks import LOSSES, check_keys_of_run, usual_values
from .decoding import DecodingOptions
from .embedded import keys_of_model
from .errors import checked_config
from .names import Names
from .token_ids import TokenIds

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class DMPOConfig(DecodingOptions, TokenIds):
    """All keys of a run. A default is the paper's (docs/maths.md, sections 2 to 8) if the paper has the value.

    `DecodingOptions` has the keys of decoding; rollouts and evaluation decode the same way.
    """

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

    # Task
    task_options: dict[str, Any] = field(default_factory=dict)
    """arguments of the task"""
    reward: str | None = None
    """your function as `module:function`, in place of the task's reward; it runs in processes of its own"""
    rewards: list[str | dict[str, Any]] = field(default_factory=list)
    """in place of `reward`, several: each as `module:function`, or as {function: module:function, name: of the metrics,
    options: {its keyword arguments}}. A completion gets their weighted sum"""
    reward_weights: list[float] = field(default_factory=list)
    """one weight for each of `rewards`; empty for weights of 1"""
    reward_timeout: float = 60.0
    """seconds of one call of a reward; a completion that takes longer, or crashes it, scores 0"""
    max_prompt_length: int = 200
    """tokens; a longer prompt is an error, it is never cut"""

    # Rollouts
    num_prompts: int = 8
    """prompts of a round, over all ranks"""
    num_generations: int = 16
    """completions of each prompt, the group size G"""
    rollout_batch_size: int = 16
    """sequences of one forward without gradient (decoding and scoring); scoring takes more of short prompts, up to as
    many tokens"""
    merge_adapters: bool = False
    """merge LoRA into the weights while rollouts and evaluations decode: half the kernels of a pass, for a second copy
    of the adapted weights. Afterwards the policy is bit for bit what it was. `rollout_mismatch` shows the rounding"""
    # other defaults than in `DecodingOptions`
    gen_length: int = 256
    temperature: float = 0.2
    early_stop: bool = True

    # Objective
    loss: Annotated[str, Names(LOSSES)] = "wdce"
    """wdce (weighted denoising cross-entropy), wddo (weighted direct discriminative optimisation), or, to compare with,
    the published wd1 and diffu_grpo, which weight one-step log-probabilities by advantages. wddo does not read baseline
    and strength; wd1 and diffu_grpo read neither them nor alpha, coeff, ess_target and weighting. Or your own
    `Objective` (`dmpo.objectives.step`) as `module:name`, which may read every key"""
    wddo_alpha: float = 1.0
    """of wddo, α_d"""
    wddo_beta: float = 1.0
    """of wddo, β"""
    prompt_mask_rate: float = 0.15
    """of wd1 and diffu_grpo, the share of prompt tokens that a view masks, in [0, 1)"""
    wd1_psi: float = 1.0
    """of wd1, ψ"""
    clip_epsilon: float = 0.5
    """of diffu_grpo, ε in (0, 1)"""
    kl_beta: float = 0.04
    """of diffu_grpo, β"""
    alpha: float = 0.04
    """temperature of the target p_ref·exp(r/α), in units of reward"""
    coeff: float = 1.0
    """proximal coefficient c in (0, 1]"""
    ess_target: float | None = None
    """choose c anew for each group, in [0.01, 0.99], so that the ESS of the group is this; null keeps `coeff`"""
    weighting: Literal["softmax", "reward"] = "softmax"
    """softmax (of c·(log p_ref − log p_cur + r/α)) or reward (w = r, as it is)"""
    baseline: Baseline = "negative"
    """the weight baseline; the paper takes negative"""
    strength: float = 1.0
    """how much of the baseline is subtracted; the paper takes 1"""
    reference_refresh_steps: int = 0
    """make the policy its own new reference every so many gradient steps; 0 never"""
    replicates: int = 4
    """views R of each completion in a gradient step; prompt masks of wd1 and diffu_grpo, whose published runs drew 1"""
    score_views: int = 4
    """views K for log-probabilities"""
    mask_rate_min: float = 0.1
    """the smallest share of positions that a view masks"""
    mask_rate_max: float = 0.9
    """the largest share of positions that a view masks"""
    antithetic: bool = True
    """draw views in pairs, of which one masks what the other shows"""
    truncate_at_eos: bool = False
    """count only the tokens up to and including the first EOS"""

    # Buffer
    buffer_rounds: int = 1
    """rounds of rollouts that are kept; slot i of a gradient step is group i of a kept round, chosen at random"""
    buffer_min_ess: float = 0.0
    """drop a group of an earlier round, which the policy has left behind, once the ESS of softmax(log p_θ − log p_cur)
    over it, as a share of the group, is smaller. 0 keeps all, and spares scoring them every round"""

    # Optimisation
    max_steps: int = 1000
    """gradient steps in all"""
    gradient_steps: int = 8
    """gradient steps of a round, F"""
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

    @model_validator(mode="before")
    @classmethod
    def _take_keys_of_model(cls, given: Any) -> Any:
        """Keys that are not given are as the embedded model suggests."""
        keys = given.kwargs if isinstance(given, ArgsKwargs) else given
        return {**keys_of_model(keys.get("model")), **keys} if isinstance(keys, dict) else given

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in usual_values(self).items():
            object.__setattr__(self, name, value)
        check_keys_of_run(self)
