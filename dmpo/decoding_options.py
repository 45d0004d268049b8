"""What a user asks of a decoder, checked before any work. No torch here: configs hold the same keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Decoder = Literal["topk", "parallel", "prefix_cache", "dual_cache", "wino", "random_order"]
Remasking = Literal["low_confidence", "random"]

WINO_THRESHOLD, WINO_THRESHOLD_BACK = 0.6, 0.9  # the paper's
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
_BY_CONFIDENCE = ("parallel", "prefix_cache", "dual_cache")

_SMALLEST_TEMPERATURE = 1e-30  # what the draw takes
_TYPES: tuple[tuple[tuple[str, ...], type[Any] | tuple[type[Any], ...], str], ...] = (
    (("decoder", "remasking"), str, "a string"),
    (("gen_length", "block_length", "steps", "seed"), int, "an int"),
    (
        ("temperature", "threshold", "factor", "cfg_scale", "wino_threshold", "wino_threshold_back"),
        (int, float),
        "a number",
    ),
    (("early_stop", "compiled"), bool, "True or False"),
)


@dataclass(frozen=True)
class DecodingOptions:
    """Arguments of `generate` that are not tensors; meanings and errors as there."""

    decoder: Decoder
    gen_length: int
    block_length: int
    steps: int
    temperature: float = 0.0
    threshold: float | None = None
    factor: float | None = None
    cfg_scale: float = 0.0
    wino_threshold: float = WINO_THRESHOLD
    wino_threshold_back: float = WINO_THRESHOLD_BACK
    remasking: Remasking = "low_confidence"
    early_stop: bool = False
    seed: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        for names, kind, wanted in _TYPES:
            for name in names:
                value = getattr(self, name)
                if value is None and name in ("threshold", "factor"):
                    continue
                if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                    raise TypeError(f"{name} must be {wanted}, got {value!r}")
        if self.decoder not in DECODERS:
            raise ValueError(f"unknown decoder {self.decoder!r}, choose one of {', '.join(DECODERS)}")
        if self.block_length < 1 or self.gen_length < 1 or self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length must be a positive multiple of block_length, got {self.gen_length} and {self.block_length}"
            )
        if self.steps < 1 or self.steps % self.blocks:
            raise ValueError(f"steps must be a positive multiple of the {self.blocks} blocks, got {self.steps}")
        if self.steps // self.blocks > self.block_length:
            raise ValueError(
                f"steps per block must be at most block_length {self.block_length}, got {self.steps // self.blocks}"
            )
        if self.temperature != 0 and not _SMALLEST_TEMPERATURE <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or finite and ≥ {_SMALLEST_TEMPERATURE}, got {self.temperature}")
        if not -float("inf") < self.cfg_scale < float("inf"):
            raise ValueError(f"cfg_scale must be finite, got {self.cfg_scale}")
        if self.remasking not in ("low_confidence", "random"):
            raise ValueError(f"unknown remasking {self.remasking!r}, choose low_confidence or random")
        if self.compiled and self.decoder != "dual_cache":
            raise ValueError(f"compiled must be False for {self.decoder!r}: only dual_cache's steps keep their shape")
        self._check_rules()

    def _check_rules(self) -> None:
        rules = {"threshold": self.threshold, "factor": self.factor}
        given = [name for name, value in rules.items() if value is not None]
        if given and self.decoder not in _BY_CONFIDENCE:
            raise ValueError(
                f"{given[0]} must be left at None, got {rules[given[0]]}: it belongs to {', '.join(_BY_CONFIDENCE)}, "
                f"not to {self.decoder!r}"
            )
        if len(given) == 2:
            raise ValueError(f"give threshold or factor, not both, got {self.threshold} and {self.factor}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.factor is not None and not 0 <= self.factor < float("inf"):
            raise ValueError(f"factor must be finite and ≥ 0, got {self.factor}")
        for name, default in (("wino_threshold", WINO_THRESHOLD), ("wino_threshold_back", WINO_THRESHOLD_BACK)):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
            if self.decoder != "wino" and value != default:
                raise ValueError(f"{name} must be left at {default}, got {value}: it belongs to 'wino'")
        if self.decoder == "wino" and self.remasking == "random":
            raise ValueError("remasking must be low_confidence for 'wino': what it unmasks, it verifies by probability")

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def ranks_at_random(self) -> bool:
        """Whether candidates are ranked by random numbers instead of by their probability."""
        return self.remasking == "random" or self.decoder == "random_order"
