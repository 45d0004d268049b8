"""One typed config: YAML file or shipped name, plus `key=value` from the command line."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .decoding.settings import WINO_THRESHOLD, WINO_THRESHOLD_BACK, Decoder, Remasking, Settings
from .weights import Baseline

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_AT_LEAST_ONE = (
    *("max_prompt_length", "num_prompts", "rollout_batch_size"),
    *("replicates", "score_views", "max_steps", "gradient_steps", "save_total_limit", "eval_prompts"),
)
_AT_LEAST_ZERO = (
    *("lora_r", "alpha", "strength", "eval_temperature", "eval_decode_steps"),
    *("learning_rate", "warmup_steps", "weight_decay", "micro_batch_size", "save_steps", "eval_steps", "seed"),
)


@dataclass(config=_STRICT, kw_only=True)
class DMPOConfig:
    """Everything that defines a run. Defaults are the paper's (algorithm, sections 3 to 7) where it has one.

    Model
        model: checkpoint folder, hub id, or the name of an embedded model.
        dtype: of the weights and the forward; `attn_implementation` as in transformers.
        lora_r: rank of LoRA on all linear layers; 0 trains every weight, with a frozen copy as the reference.
        lora_alpha, lora_dropout: as in peft.
    Task
        task, task_options: a task of `dmpo.tasks`, or your class as `module:class`, and its arguments.
        reward: your function as `module:function`, in place of the task's own reward.
        max_prompt_length: tokens; a longer prompt is an error, never cut.
    Rollouts
        num_prompts: prompts a round, over all ranks. num_generations: completions of each, the group size G.
        decoder, gen_length, block_length, steps, temperature, threshold, factor, cfg_scale, remasking, wino_threshold,
            wino_threshold_back, compiled, early_stop: as in `dmpo.generate`. Evaluation decodes the same way.
        rollout_batch_size: sequences of one forward without gradient (decoding and scoring).
    Objective
        alpha: temperature of the target p_ref·exp(r/α), in units of reward. coeff: proximal coefficient c in (0, 1].
        baseline, strength: weight baseline and how much of it is subtracted. The paper: negative, 1.
        replicates: views of each completion a gradient step, R. score_views: views for log-probabilities, K.
        mask_rate_min, mask_rate_max, antithetic: how views are drawn.
        truncate_at_eos: count only tokens up to and including the first EOS.
    Optimisation
        max_steps: gradient steps in all. gradient_steps: of them a round, F.
        learning_rate, warmup_steps, weight_decay, adam_beta1, adam_beta2, max_grad_norm: AdamW, constant after warm-up.
        micro_batch_size: views of one forward and backward; the gradient does not depend on it. 0: all at once.
    Book-keeping
        output_dir: the folder that the run owns. resume: go on from its newest whole checkpoint.
        seed: of everything. save_steps, eval_steps: every so many gradient steps, 0 for only at the end.
        save_total_limit: checkpoints kept.
        eval_prompts: held-out prompts of one evaluation; eval_temperature: of its sampled half (the other is greedy).
        eval_decode_steps: model calls of a completion in evaluation, 0 for `steps`.
        report_to: trackers by accelerate's names (tensorboard, wandb, trackio).
    """

    model: str
    task: str
    output_dir: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    attn_implementation: str = "sdpa"
    lora_r: int = 128
    lora_alpha: int = 64
    lora_dropout: float = 0.05

    task_options: dict[str, Any] = field(default_factory=dict)
    reward: str | None = None
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

    alpha: float = 0.04
    coeff: float = 1.0
    baseline: Baseline = "negative"
    strength: float = 1.0
    replicates: int = 4
    score_views: int = 4
    mask_rate_min: float = 0.1
    mask_rate_max: float = 0.9
    antithetic: bool = True
    truncate_at_eos: bool = False

    max_steps: int = 1000
    gradient_steps: int = 8
    learning_rate: float = 1e-6
    warmup_steps: int = 10
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 0.2
    micro_batch_size: int = 4

    seed: int = 0
    resume: bool = False
    save_steps: int = 100
    save_total_limit: int = 2
    eval_steps: int = 100
    eval_prompts: int = 256
    eval_temperature: float = 0.2
    eval_decode_steps: int = 0
    report_to: list[str] = field(default_factory=list)

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
            for name in ("replicates", "score_views"):
                _require(name, getattr(self, name), getattr(self, name) % 2 == 0, "even when antithetic")


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
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)} | changes
    Settings(**options)
    return options


Config = TypeVar("Config")


def load_config(kind: type[Config], source: str | None, overrides: list[str] | None = None) -> Config:
    """A config from a YAML path or a shipped name, with `key=value` overrides (values are YAML).

    Raises:
        ValueError: no such file, bad YAML, an unknown key (with the nearest valid one) or a bad value, named.
    """
    values = {} if source is None else _read_yaml(source)
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ValueError(f"expected key=value, got {item!r}")
        *parents, last = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"config key {key!r}: {parent!r} has no keys of its own")
        inner[last] = _parse_yaml(text, f"value of {key}")
    return build_config(kind, values)


def build_config(kind: type[Config], values: dict[str, Any]) -> Config:
    """A validated config; errors as in `load_config`."""
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(names)}"
            raise ValueError(f"unknown config key {key!r}{hint}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "missing":
                problems.append(f"config key {where!r} is required")
            else:
                context = item.get("ctx", {}).get("error")
                problems.append(
                    str(context) if context else f"config key {where!r}: {item['msg']}, got {item['input']!r}"
                )
        raise ValueError("; ".join(problems)) from None


def shipped_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files("dmpo").joinpath("configs").iterdir())


def dump_config(config: Any) -> str:
    """The config as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True)


def _require(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value}")


def _read_yaml(source: str) -> dict[str, Any]:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        shipped = shipped_configs()
        if source not in shipped:
            near = difflib.get_close_matches(source, shipped, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no config {source!r}{hint} Shipped: {', '.join(shipped)}; or give the path of a .yaml file"
            )
        text = (files("dmpo") / "configs" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"config file {source} cannot be read: {error.strerror}") from error
    values = _parse_yaml(text, f"config {source}")
    if not isinstance(values, dict):
        raise ValueError(f"config {source} must be a mapping of keys to values")
    return values


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
