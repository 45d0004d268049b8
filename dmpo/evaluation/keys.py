"""The typed keys of an evaluation, and the cells (task, gen_length, decoder) that they span."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ..config.decoding import Decoder, DecodingOptions, DecodingRules, default_of, is_read, readers_of
from ..config.errors import checked_config
from ..config.names import is_own_name
from ..config.weights import WeightKeys

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
MOST_SAMPLES = 1 << 12  # of an example, as many as its random numbers have room for
MOST_EXAMPLES = 1 << 18  # of a task


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class EvalConfig(WeightKeys, DecodingRules):
    """Keys of `dmpo eval`, named as the keys of a run where they mean the same. A list of one may be a single value.

    `DecodingRules` has the other keys of decoding. An option applies to those decoders that read it. A completion
    depends on (seed, task, split, example, sample) alone.
    """

    OLDER_NAMES: ClassVar[Mapping[str, str]] = {
        "tasks": "task",
        "gen_lengths": "gen_length",
        "decoders": "decoder",
        "batch_size": "rollout_batch_size",
        "limit": "eval_prompts",
    }

    # Model
    model: str
    """checkpoint folder, hub id, embedded name, or the folder of a run of `dmpo train`"""
    task: list[str]
    """of `dmpo.tasks`, or classes as `module:class`"""
    output_dir: str
    """where results.jsonl, .json, .md and .png go, and what an interrupted evaluation continues from"""

    # Examples
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """arguments of each task, by its name; what the task of a run is not given, its prompt template among it, is as the
    run was trained with"""
    split: Literal["test", "validation"] = "test"
    """validation selects checkpoints; the test split never does"""
    eval_prompts: int | None = None
    """examples of each task, the first so many; null for all of a finite one"""
    shots: int = 0
    """solved rows of the train split put before each prompt, drawn by the seed"""
    max_prompt_length: int | None = None
    """tokens, shots included; null for what the model has room for. A longer prompt is an error"""

    # Decoding
    gen_length: list[int] = field(default_factory=lambda: [256])
    """tokens of a completion"""
    decoder: list[Decoder] = field(default_factory=lambda: ["topk"])
    """as in `dmpo.generate`; or your own as `module:name`"""
    block_length: int | None = None
    """tokens of a block; null for 32, or gen_length where that is shorter"""
    steps: int | None = None
    """model calls of a completion; null for gen_length / tokens_per_step"""
    tokens_per_step: int = 2
    """gen_length divided by the steps, for every gen_length; not read where steps is given"""
    samples: int = 1
    """completions of each example"""
    pass_at: list[int] = field(default_factory=lambda: [1])
    """the k of every pass@k to report"""
    rollout_batch_size: int = 16
    """rows of one forward"""
    early_stop: bool = True  # another default

    def __post_init__(self) -> None:
        for name in ("task", "gen_length", "decoder", "pass_at"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must name at least one, and none twice, got {values}")
        if unknown := sorted(set(self.task_options) - set(self.task)):
            raise ValueError(f"task_options are for {unknown[0]!r}, which is not one of the tasks {self.task}")
        for name, low, high in (
            ("samples", 1, MOST_SAMPLES),
            ("eval_prompts", 1, MOST_EXAMPLES),
            ("shots", 0, 1000),
            ("max_prompt_length", 1, 1 << 24),
            ("tokens_per_step", 1, 1 << 24),
            ("steps", 1, 1 << 24),
            ("rollout_batch_size", 1, 1 << 24),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {value}")
        for k in self.pass_at:
            if not 1 <= k <= self.samples:
                raise ValueError(f"pass_at must be 1 to samples {self.samples}, got {k}")
        if self.steps is not None and self.tokens_per_step != default_of(EvalConfig, "tokens_per_step"):
            raise ValueError(f"give steps or tokens_per_step, not both, got {self.steps} and {self.tokens_per_step}")
        at_random = [decoder == "random_order" or is_own_name(decoder) for decoder in self.decoder]
        random = self.temperature > 0 or self.remasking == "random" or all(at_random)
        if self.samples > 1 and not random:
            raise ValueError(f"temperature must be above 0 for {self.samples} samples, which would be all the same")
        self._check_options()
        for length in self.gen_length:
            for decoder in self.decoder:
                self.decoding(length, decoder)

    def decoding(self, gen_length: int, decoder: Decoder) -> DecodingOptions:
        """The options of one cell. An option that its decoder does not read is left out.

        Raises ValueError as `DecodingOptions` does.
        """
        if self.steps is None and gen_length % self.tokens_per_step:
            multiple = f"a multiple of tokens_per_step {self.tokens_per_step}"
            raise ValueError(f"gen_length must be {multiple}, got {gen_length}")
        rules = {
            key.name: getattr(self, key.name)
            for key in dataclasses.fields(DecodingRules)
            if is_read(key.name, [decoder])
        }
        try:
            return DecodingOptions(
                decoder=decoder,
                gen_length=gen_length,
                block_length=max(1, min(32, gen_length)) if self.block_length is None else self.block_length,
                steps=gen_length // self.tokens_per_step if self.steps is None else self.steps,
                **rules,
            )
        except ValueError as error:
            raise ValueError(f"decoder {decoder!r}, gen_length {gen_length}: {error}") from None

    def _check_options(self) -> None:
        """An option that none of the decoders reads would be ignored."""
        for key in dataclasses.fields(DecodingRules):
            if getattr(self, key.name) != default_of(EvalConfig, key.name) and not is_read(key.name, self.decoder):
                readers = ", ".join(readers_of(key.name))
                raise ValueError(f"{key.name} belongs to {readers}, none of which is among {self.decoder}")
        if self.decoder.count("wino") and self.attn_implementation not in ("sdpa", "eager"):
            raise ValueError(f"attn_implementation must be sdpa or eager for 'wino', got {self.attn_implementation}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One bar of the chart."""

    task: str
    gen_length: int
    decoder: Decoder


def cells(config: EvalConfig) -> list[Cell]:
    """Every combination, tasks first."""
    return [
        Cell(task, length, decoder)
        for task in config.task
        for length in config.gen_length
        for decoder in config.decoder
    ]
