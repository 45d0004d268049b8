"""The typed config of a run: every key, its default and its meaning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from ..losses.baselines import Baseline
from .checks import LOSSES, check_keys_of_run, usual_values
from .embedded import keys_of_model
from .errors import checked_config
from .names import Names
from .run import RunConfig

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class DMPOConfig(RunConfig):
    """All keys of a run. A default is the paper's (docs/maths.md, sections 2 to 8) if the paper has the value.

    `DecodingOptions` has the keys of decoding; rollouts and evaluation decode the same way.
    """

    ROWS: ClassVar[str] = "num_prompts · num_generations"

    # Task
    reward: str | None = None
    """your function as `module:function`, in place of the task's reward; it runs in processes of its own"""
    rewards: list[str | dict[str, Any]] = field(default_factory=list)
    """in place of `reward`, several: each as `module:function`, or as {function: module:function, name: of the metrics,
    options: {its keyword arguments}}. A completion gets their weighted sum"""
    reward_weights: list[float] = field(default_factory=list)
    """one weight for each of `rewards`; empty for weights of 1"""
    reward_timeout: float = 60.0
    """seconds of one call of a reward; a completion that takes longer, or crashes it, scores 0"""

    # Rollouts
    num_prompts: int = 8
    """prompts of a round, over all ranks"""
    num_generations: int = 16
    """completions of each prompt, the group size G"""
    skip_equal_rewards: bool = False
    """leave a group out of the gradient steps where its completions all have the same reward; it counts 0 in the mean
    over groups"""
    resample_prompts: int = 0
    """how often at most a round draws further prompts in place of those whose completions all have the same reward; 0
    for never. A round then costs up to 1 + resample_prompts times as much decoding. Needs skip_equal_rewards"""
    # other defaults than in `DecodingOptions`
    gen_length: int = 256
    temperature: float = 0.2
    early_stop: bool = True

    # Objective
    loss: Annotated[str, Names(LOSSES)] = "wdce"
    """wdce (weighted denoising cross-entropy), wdce_path (the same on the path that a random_order rollout drew: exact
    weights, a token a view), wddo (weighted direct discriminative optimisation), rspo and tb (squared
    distance of log p_θ from the same target; log Z by importance weights, or the mean of the group), or, to compare
    with, the published wd1 and diffu_grpo, which weight one-step log-probabilities by advantages. wddo does not read
    baseline and strength; rspo and tb read neither them nor coeff, ess_target and weighting; wd1 and
    diffu_grpo read neither them nor alpha, coeff, ess_target and weighting. Or your own
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
    view_rates: Literal["uniform", "stratified", "gauss"] = "uniform"
    """how many positions the views of a completion mask, for scores and training: uniform (independent rates between
    mask_rate_min and mask_rate_max), stratified (strata of the number of masked positions, unbiased for the ELBO) or
    gauss (Gauss-Legendre rates with their weights, without antithetic pairs)"""
    view_positions: Literal["uniform", "confidence"] = "uniform"
    """which positions the views of a gradient step mask: uniform, or confidence (those that the rollout drew last, in
    8 phases; of loss wdce, which is then no longer the ELBO's gradient)"""
    truncate_at_eos: bool = False
    """count only the tokens up to and including the first EOS"""

    # Buffer
    buffer_rounds: int = 1
    """rounds of rollouts that are kept; slot i of a gradient step is group i of a kept round, chosen at random"""
    buffer_min_ess: float = 0.0
    """drop a group of an earlier round, which the policy has left behind, once the ESS of softmax(log p_θ − log p_cur)
    over it, as a share of the group, is smaller. 0 keeps all, and spares scoring them every round"""

    # Optimisation
    gradient_steps: int = 8
    """gradient steps of a round, F"""

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

    @property
    def rows_of_step(self) -> int:
        """The completions of a round."""
        return self.num_prompts * self.num_generations

    @property
    def round_steps(self) -> int:
        """F, as `gradient_steps`."""
        return self.gradient_steps

    def rows_drawn(self, steps: int) -> int:
        """The prompts of these steps, without resampled ones; all steps of a round share its prompts."""
        return self.num_prompts * -(-steps // self.gradient_steps)

    @property
    def draws_of_round(self) -> int:
        """How many times a round may draw each of its prompts: once, and so often again as `resample_prompts` says."""
        return 1 + self.resample_prompts
