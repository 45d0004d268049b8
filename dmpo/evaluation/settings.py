"""What an evaluation is asked to do: typed keys, and the cells (task, gen_length, decoder) that they span."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from ..config_errors import checked_config
from ..decoding_options import WINO_THRESHOLD, WINO_THRESHOLD_BACK, Decoder, DecodingOptions, Remasking

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
MOST_SAMPLES = 1 << 12  # of an example, as many as its random numbers have room for
MOST_EXAMPLES = 1 << 18  # of a task

# The decoders that take an option; the others are run without it.
_TAKEN_BY: dict[str, tuple[Decoder, ...]] = {
    "threshold": ("parallel", "prefix_cache", "dual_cache"),
    "factor": ("parallel", "prefix_cache", "dual_cache"),
    "wino_threshold": ("wino",),
    "wino_threshold_back": ("wino",),
    "compiled": ("dual_cache",),
}


def is_taken(option: str, decoders: Sequence[str]) -> bool:
    """Whether at least one of the decoders takes an option."""
    return option not in _TAKEN_BY or bool(set(_TAKEN_BY[option]) & set(decoders))


def listed(value: Any) -> Any:
    """A single value for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


@checked_config
@dataclass(config=_STRICT, kw_only=True)
class EvalConfig:
    """Keys of `dmpo eval`. Lists may be given as a single value.

    Model
        model: checkpoint folder, hub id, embedded name, or the folder of a run of `dmpo train`.
        adapter: LoRA adapter to put on it: a folder, hub id or the folder of a run.
        checkpoint: of a run: newest, best (on the validation split, see `dmpo.run.selection`) or step-N.
        dtype: of the weights; null keeps the checkpoint's. attn_implementation, load_in_4bit: as in `dmpo.load_model`.
    Examples
        tasks: of `dmpo.tasks`, or classes as `module:class`. task_options: arguments of each, by its name; those that a
            run's own task is not given are as the run was trained with, its prompt template among them.
        split: test, or validation (what selects checkpoints; the test split never does).
        limit: examples of each task, the first so many; null for all of a finite one.
        shots: solved rows of the train split put before each prompt, drawn by the seed.
        max_prompt_length: tokens, shots included; null for what the model has room for. Longer prompts are an error.
    Decoding
        gen_lengths: tokens of a completion. decoders: as in `dmpo.generate`.
        block_length: null for 32, or gen_length where that is shorter. tokens_per_step: gen_length / steps.
        temperature, cfg_scale, remasking, early_stop: as in `dmpo.generate`.
        threshold, factor, wino_threshold, wino_threshold_back, compiled: likewise, for those decoders that take them.
        samples: completions of each example. pass_at: the k of every pass@k to report.
        seed: of the draws and the shots. A completion depends on (seed, task, split, example, sample) alone.
        batch_size: rows of one forward.
    Book-keeping
        output_dir: results.jsonl, results.json, results.md, results.png, and what an interrupted run goes on from.
    """

    model: str
    tasks: Annotated[list[str], BeforeValidator(listed)]
    output_dir: str
    adapter: str | None = None
    checkpoint: str = "newest"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    attn_implementation: str = "sdpa"
    load_in_4bit: bool = False

    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    split: Literal["test", "validation"] = "test"
    limit: int | None = None
    shots: int = 0
    max_prompt_length: int | None = None

    gen_lengths: Annotated[list[int], BeforeValidator(listed)] = field(default_factory=lambda: [256])
    decoders: Annotated[list[Decoder], BeforeValidator(listed)] = field(default_factory=lambda: ["topk"])
    block_length: int | None = None
    tokens_per_step: int = 2
    temperature: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    cfg_scale: float = 0.0
    remasking: Remasking = "low_confidence"
    wino_threshold: float = WINO_THRESHOLD
    wino_threshold_back: float = WINO_THRESHOLD_BACK
    compiled: bool = False
    early_stop: bool = True
    samples: int = 1
    pass_at: Annotated[list[int], BeforeValidator(listed)] = field(default_factory=lambda: [1])
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("tasks", "gen_lengths", "decoders", "pass_at"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must name at least one, and none twice, got {values}")
        if unknown := sorted(set(self.task_options) - set(self.tasks)):
            raise ValueError(f"task_options are for {unknown[0]!r}, which is not one of the tasks {self.tasks}")
        for name, low, high in (
            ("samples", 1, MOST_SAMPLES),
            ("limit", 1, MOST_EXAMPLES),
            ("shots", 0, 1000),
            ("max_prompt_length", 1, 1 << 24),
            ("tokens_per_step", 1, 1 << 24),
            ("batch_size", 1, 1 << 24),
            ("seed", 0, (1 << 63) - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {value}")
        for k in self.pass_at:
            if not 1 <= k <= self.samples:
                raise ValueError(f"pass_at must be 1 to samples {self.samples}, got {k}")
        random = self.temperature > 0 or self.remasking == "random" or self.decoders == ["random_order"]
        if self.samples > 1 and not random:
            raise ValueError(f"temperature must be above 0 for {self.samples} samples, which would be all the same")
        self._check_options()
        for length in self.gen_lengths:
            for decoder in self.decoders:
                self.decoding(length, decoder)

    def decoding(self, gen_length: int, decoder: Decoder) -> dict[str, Any]:
        """Keyword arguments of `dmpo.generate`, but for the seed. Raises ValueError as that would."""
        block_length = max(1, min(32, gen_length)) if self.block_length is None else self.block_length
        if gen_length % self.tokens_per_step:
            wanted = f"a multiple of tokens_per_step {self.tokens_per_step}"
            raise ValueError(f"gen_length must be {wanted}, got {gen_length}")
        own: dict[str, Any] = {"decoder": decoder, "gen_length": gen_length, "block_length": block_length, "seed": 0}
        own["steps"] = gen_length // self.tokens_per_step
        options: dict[str, Any] = {}
        for key in dataclasses.fields(DecodingOptions):
            if key.name in own:
                options[key.name] = own[key.name]
            elif decoder in _TAKEN_BY.get(key.name, (decoder,)):
                options[key.name] = getattr(self, key.name)
        try:
            DecodingOptions(**options)
        except ValueError as error:
            raise ValueError(f"decoder {decoder!r}, gen_length {gen_length}: {error}") from None
        del options["seed"]
        return options

    def _check_options(self) -> None:
        """An option that none of the decoders takes would be ignored."""
        defaults = {key.name: key.default for key in dataclasses.fields(EvalConfig)}
        for name, takers in _TAKEN_BY.items():
            if getattr(self, name) != defaults[name] and not is_taken(name, self.decoders):
                raise ValueError(f"{name} belongs to {', '.join(takers)}, none of which is among {self.decoders}")
        if self.decoders.count("wino") and self.attn_implementation not in ("sdpa", "eager"):
            raise ValueError(f"attn_implementation must be sdpa or eager for 'wino', got {self.attn_implementation}")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One bar of the chart."""

    task: str
    gen_length: int
    decoder: str


def cells(config: EvalConfig) -> list[Cell]:
    """Every combination, tasks first."""
    return [
        Cell(task, length, decoder)
        for task in config.tasks
        for length in config.gen_lengths
        for decoder in config.decoders
    ]
