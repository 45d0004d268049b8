"""The typed config of supervised fine-tuning: every key, its default and its meaning."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from .checks import check_keys_of_all_runs, require, usual_values
from .embedded import keys_of_model
from .errors import checked_config
from .run import RunConfig

_OF_DMPO = ("temperature", "learning_rate")  # what an embedded model suggests for DMPO alone


@checked_config
@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class SFTConfig(RunConfig):
    """All keys of supervised fine-tuning. Keys of `RunConfig` mean what they mean in a run of DMPO."""

    SHIPPED_IN: ClassVar[str] = "sft"
    ROWS: ClassVar[str] = "batch_size"

    # Demonstrations
    batch_size: int = 32
    """rows of a gradient step, over all ranks. A task with an end shows each of its rows once before any row again"""
    token_weights: Literal["rate", "mean"] = "rate"
    """of the masked tokens of an answer of L tokens: rate, 1 / (t·L) each, where t is the mask rate (LLaDA's bound of
    the log-likelihood); mean, their mean"""
    view_rates: Literal["uniform", "stratified"] = "uniform"
    """how many tokens each row of a step masks: uniform (independent mask rates) or stratified (a fixed number by a
    mask rate, which the rows of a step take from as many equal strata: a steadier loss, and rate and mean are one)"""
    mask_rate_min: float = 0.001
    """the smallest mask rate t of an answer"""
    mask_rate_max: float = 1.0
    """the largest mask rate t of an answer"""
    eos_padding: Literal["batch", "full", "none"] = "batch"
    """EOS tokens that an answer gets and learns: as many as the longest answer of the step needs (batch, as LLaDA),
    up to gen_length (full), or one (none)"""
    widen_attention_steps: int = 0
    """gradient steps in which attention widens from causal to bidirectional, for a model that was autoregressive. Later
    tokens up to a distance are seen, and the distance grows evenly to the whole row; 0: all are seen from the start"""
    # other defaults than in `RunConfig`
    gen_length: int = 256
    early_stop: bool = True
    learning_rate: float = 1e-5
    max_grad_norm: float = 1.0
    micro_batch_size: int = 4
    """rows of one forward and backward, 0 for all at once. It counts rows of max_prompt_length + gen_length tokens: of
    shorter rows more pass together, up to as many tokens. It changes the gradient by the masks of LoRA's dropout alone
    """

    @model_validator(mode="before")
    @classmethod
    def _take_keys_of_model(cls, given: Any) -> Any:
        """Keys that are not given are as the embedded model suggests."""
        keys = given.kwargs if isinstance(given, ArgsKwargs) else given
        if not isinstance(keys, dict):
            return given
        known = {field.name for field in fields(RunConfig)} - set(_OF_DMPO)
        return {name: value for name, value in keys_of_model(keys.get("model")).items() if name in known} | keys

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in usual_values(self).items():
            object.__setattr__(self, name, value)
        check_keys_of_all_runs(self)
        require("batch_size", self.batch_size, self.batch_size >= 1, "≥ 1")
        require("widen_attention_steps", self.widen_attention_steps, self.widen_attention_steps >= 0, "≥ 0")
        rates = (self.mask_rate_min, self.mask_rate_max)
        divides = (self.token_weights, self.view_rates) == ("rate", "uniform")
        positive = not divides or self.mask_rate_min > 0
        require("mask_rate_min", self.mask_rate_min, positive, "> 0 where token_weights is rate, which divides by it")
        require("mask_rate_max", rates, self.mask_rate_max > 0, "> 0")
        require("temperature", self.temperature, self.temperature == 0, "left out: eval_temperature is of evaluations")

    @property
    def rows_of_step(self) -> int:
        """The rows of a step."""
        return self.batch_size

    def rows_drawn(self, steps: int) -> int:
        """The rows of these steps."""
        return self.batch_size * steps
