"""The decoding options, each declared once: its type, default, meaning and check. No torch here.

A new option is one field of `DecodingRules` (or of `DecodingOptions`, if it says how long a completion is). `generate`
then takes it as a keyword, and the configs of runs, of evaluations and of `dmpo generate` inherit it as a key. A config
with another default repeats the field with its type; the check and the meaning stay here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from .names import Names, is_own_name

Decoder = str  # one of DECODERS, or the user's own `module:name`
Remasking = Literal["low_confidence", "random"]
Cached = Literal["none", "prefix", "dual"]

DECODERS: tuple[Decoder, ...] = (
    *("topk", "parallel", "prefix_cache", "dual_cache", "wino", "random_order"),
    *("risk", "entropy", "hierarchy", "credit"),
)

_SMALLEST_TEMPERATURE = 1e-30  # the draw takes no smaller one


@dataclass(frozen=True)
class Values:
    """The values that an option may have: a test of a value that is not None, and the test in words."""

    description: str
    allowed: Callable[[Any], bool]


@dataclass(frozen=True)
class Only:
    """The decoders that read an option; for the others it must keep its default.

    own: the user's own decoders may read the option, too.
    """

    decoders: tuple[Decoder, ...]
    own: bool = True


_SUFFIX = Values(
    "full, none or a number of masks, 0 or more",
    lambda value: value in ("full", "none") if isinstance(value, str) else value >= 0,
)
_SHARE = Values("in [0, 1]", lambda value: 0 <= value <= 1)
_FINITE = Values("finite", lambda value: -math.inf < value < math.inf)
_NOT_NEGATIVE = Values("finite and ≥ 0", lambda value: 0 <= value < math.inf)
_TEMPERATURE = Values(
    f"0 or finite and ≥ {_SMALLEST_TEMPERATURE}", lambda value: value == 0 or _SMALLEST_TEMPERATURE <= value < math.inf
)
_PARALLEL = Only(("parallel", "prefix_cache", "dual_cache"))
_THRESHOLD = Only((*_PARALLEL.decoders, "risk", "hierarchy", "credit"))
_CREDIT = Only(("credit",))
_WINO = Only(("wino",))
_CACHE_BY_NAME: Mapping[Decoder, Cached] = {"prefix_cache": "prefix", "dual_cache": "dual"}
_WITHOUT_CACHE = {
    "wino": "its shadow verifies with a pass over the whole canvas",
    "random_order": "its log-probabilities are exact for passes over the whole canvas",
}
_BY_PROBABILITY = {  # decoders that need the probability of a candidate, and for what
    "wino": "it verifies by probability what it unmasks",
    "risk": "it adds up the probability of mistakes",
    "entropy": "it ranks by entropy",
    "hierarchy": "it compares probabilities with thresholds",
    "credit": "it raises probabilities, and compares them with a threshold",
}


@dataclass(kw_only=True)
class DecodingRules:
    """The options that do not depend on the length of a completion."""

    # Decoding
    temperature: Annotated[float, _TEMPERATURE] = 0.0
    """of the draw; 0 takes the most probable token"""
    threshold: Annotated[float | None, _SHARE, _THRESHOLD] = None
    """unmask every candidate at least so probable, and always the best one; of hierarchy: every one more probable; of
    risk: τ, see `dmpo.generate`; null is the published 0.9 of risk and of credit"""
    factor: Annotated[float | None, _NOT_NEGATIVE, _PARALLEL] = None
    """unmask the longest run of best candidates with c_(n) ≥ 1 − factor/(n+1), and always the best one"""
    entropy_bound: Annotated[float, _NOT_NEGATIVE, Only(("entropy",))] = 0.1
    """γ of entropy, in nats: the sum of the entropies unmasked together, without the largest, is at most this"""
    low_threshold: Annotated[float, _SHARE, Only(("hierarchy",))] = 0.4
    """hierarchy unmasks the best candidate of each run of masks if it is more probable; the default is dInfer's"""
    credit_alpha: Annotated[float, _NOT_NEGATIVE, _CREDIT] = 0.7
    """α of credit: logits become l + α·log(1 + C); 0 is parallel. The defaults of the three are the published ones"""
    credit_gamma: Annotated[float, _NOT_NEGATIVE, _CREDIT] = 0.2
    """γ of credit: a step gives p^γ to the most probable token"""
    credit_beta: Annotated[float, _SHARE, _CREDIT] = 0.8
    """β of credit: the share of a credit that stays from step to step"""
    cfg_scale: Annotated[float, _FINITE] = 0.0
    """classifier-free guidance: logits l_u + (1 + s)(l_c − l_u), the prompt masked out in l_u; 0 is none"""
    remasking: Remasking = "low_confidence"
    """rank candidates by their untempered probability, or at random"""
    wino_threshold: Annotated[float, _SHARE, _WINO] = 0.6
    """wino unmasks a candidate above this probability; the default is the paper's"""
    wino_threshold_back: Annotated[float, _SHARE, _WINO] = 0.9
    """wino takes a token back below this probability; the default is the paper's"""
    suffix: Annotated[str | int, _SUFFIX] = "full"
    """what a pass sees of the masks after the block: all (full), none, or so many; iLLaDA's own decoder has none"""
    cache: Cached | None = None
    """keys and values that a block's first pass stores for its later passes: of the positions before the block
    (prefix), of all positions outside it (dual); none. null: what the decoder's name says, and prefix for a
    block-causal model, for which it is exact"""
    compiled: Annotated[bool, Only(("dual_cache",), own=False)] = False
    """compile the steps of dual_cache after a block's first, each one CUDA graph; each shape costs a compilation"""
    early_stop: bool = False
    """once a row has an EOS with no mask before it, the rest of the row is EOS"""
    logits_eos_inf: bool = False
    """EOS is never drawn (of several EOS ids the first); probabilities are over the other tokens"""
    confidence_eos_eot_inf: bool = False
    """EOS is drawn, but ranked last (each of several EOS ids, such as the end of a turn)"""
    seed: int = 0
    """of everything that is random"""


@dataclass(kw_only=True)
class DecodingOptions(DecodingRules):
    """All arguments of `dmpo.generate` except tensors and token ids. An object of this class is read-only.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, options contradict each other, or an option that the decoder does not
            read differs from its default.
    """

    # Decoding
    decoder: Annotated[Decoder, Names(DECODERS)] = "topk"
    """see `dmpo.generate`; or your own policy as `module:name`, which may read every option"""
    gen_length: int = 128
    """tokens of a completion, a multiple of block_length"""
    block_length: int = 32
    """tokens of a block; blocks are filled from left to right"""
    steps: int = 128
    """model calls in all, a multiple of the number of blocks; not read by threshold, factor, wino, random_order,
    entropy, hierarchy and credit; of risk the most"""

    def __post_init__(self) -> None:
        for name, check in _checks().items():
            check.type_of(name, getattr(self, name))
        self._check_lengths()
        for name, check in _checks().items():
            value, default = getattr(self, name), default_of(type(self), name)
            if value != default and not is_read(name, [self.decoder]):
                raise ValueError(
                    f"{name} must be left at {default}, got {value}: it belongs to {', '.join(check.readers)}, "
                    f"not to {self.decoder!r}"
                )
            if check.values and value is not None and not check.values.allowed(value):
                raise ValueError(f"{name} must be {check.values.description}, got {value}")
        if self.threshold is not None and self.factor is not None and not is_own_name(self.decoder):
            raise ValueError(f"give threshold or factor, not both, got {self.threshold} and {self.factor}")
        if self.decoder in _BY_PROBABILITY and self.remasking == "random":
            why = _BY_PROBABILITY[self.decoder]
            raise ValueError(f"remasking must be low_confidence for {self.decoder!r}: {why}")
        self._check_cache()
        if self.compiled and self.suffix_masks is not None:
            raise ValueError(f"suffix must be full with compiled=true, whose shapes are fixed, got {self.suffix!r}")
        if self.decoder == "hierarchy" and self.threshold is not None and self.low_threshold > self.threshold:
            raise ValueError(
                f"low_threshold must be at most threshold, got {self.low_threshold} and threshold {self.threshold}"
            )

    def _check_cache(self) -> None:
        named = _CACHE_BY_NAME.get(self.decoder)
        if self.cache is not None and named is not None and self.cache != named:
            raise ValueError(
                f"cache must be null or {named} for {self.decoder!r}, which is decoder parallel with cache={named}; "
                f"got {self.cache!r}"
            )
        if self.cache in ("prefix", "dual") and self.decoder in _WITHOUT_CACHE:
            why = _WITHOUT_CACHE[self.decoder]
            raise ValueError(f"cache must be null or none for {self.decoder!r}, got {self.cache!r}: {why}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:  # a subclass of a frozen class must be frozen
            raise FrozenInstanceError(f"cannot assign to {name!r}; make other options with dataclasses.replace")
        super().__setattr__(name, value)

    def _check_lengths(self) -> None:
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

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def cached(self) -> Cached:
        """The cache of a model whose tokens attend to all others: `cache`, or what the decoder's name says."""
        return self.cache or _CACHE_BY_NAME.get(self.decoder, "none")

    @property
    def suffix_masks(self) -> int | None:
        """How many masks after the block a pass sees; None: all."""
        return {"full": None, "none": 0}[self.suffix] if isinstance(self.suffix, str) else self.suffix

    @property
    def ranks_at_random(self) -> bool:
        """Whether candidates are ranked by random numbers instead of by their probability."""
        return self.remasking == "random" or self.decoder == "random_order"


OPTIONS = tuple(field.name for field in fields(DecodingOptions))


def decoding_options(source: DecodingOptions, **changes: Any) -> DecodingOptions:
    """The decoding options of a config (or of other options), with changes.

    Raises TypeError and ValueError as `DecodingOptions` does.
    """
    return DecodingOptions(**({name: getattr(source, name) for name in OPTIONS} | changes))


def is_read(option: str, decoders: Sequence[str]) -> bool:
    """Whether at least one of the decoders reads an option."""
    check = _checks()[option]
    own = check.own and any(is_own_name(decoder) for decoder in decoders)
    return not check.readers or own or bool(set(check.readers) & set(decoders))


def readers_of(option: str) -> tuple[Decoder, ...]:
    """The decoders that read an option; empty for an option that all of them read."""
    return _checks()[option].readers


def default_of(kind: type, key: str) -> Any:
    """The default of a key of a dataclass; `dataclasses.MISSING` if the key is required."""
    return next((field.default for field in fields(kind) if field.name == key), MISSING)


@dataclass(frozen=True)
class _Check:
    """The annotation of an option: its type or `Literal`, whether None is allowed, the allowed values or names, the
    decoders that read the option (empty: all), and whether the user's own decoders may read it."""

    kind: Any
    optional: bool
    values: Values | None
    names: Names | None
    readers: tuple[Decoder, ...]
    own: bool

    def type_of(self, name: str, value: object) -> None:
        """Raise TypeError for a value of another type, ValueError for a value that is no choice and no name."""
        if value is None and self.optional:
            return
        choices = get_args(self.kind) if get_origin(self.kind) is Literal else ()
        types, description = ((str,), "a string") if choices else _TYPES[self.kind]
        if not isinstance(value, types) or (isinstance(value, bool) and self.kind is not bool):
            raise TypeError(f"{name} must be {description}, got {value!r}")
        if choices and value not in choices:
            raise ValueError(f"unknown {name} {value!r}, choose one of {', '.join(choices)}")
        if self.names:
            self.names.check(name, str(value))


_TYPES: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    str: ((str,), "a string"),
    int: ((int,), "an int"),
    float: ((int, float), "a number"),
    str | int: ((str, int), "full, none or an int"),
}


@cache
def _checks() -> dict[str, _Check]:
    """The check of each option."""
    checks = {}
    for name, hint in get_type_hints(DecodingOptions, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        optional = type(None) in get_args(kind)
        if optional:
            kind = next(inner for inner in get_args(kind) if inner is not type(None))
        values = next((note for note in notes if isinstance(note, Values)), None)
        names = next((note for note in notes if isinstance(note, Names)), None)
        only = next((note for note in notes if isinstance(note, Only)), Only(()))
        checks[name] = _Check(kind, optional, values, names, only.decoders, only.own)
    return checks
