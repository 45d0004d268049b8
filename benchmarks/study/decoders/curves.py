"""The decoders of the study, each over its parameter: a curve is one decoder, a point one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmpo.config.decoding import DecodingOptions

SHARES = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
FEW_SHARES = (0.9, 0.7, 0.5, 0.3)
Rules = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """curve: the decoder, with what else is switched on. value: of its parameter. rules: what differs from topk."""

    curve: str
    value: float
    rules: Rules

    @property
    def name(self) -> str:
        return f"{self.curve} {self.value:g}"


def points(lengths: DecodingOptions) -> list[Point]:
    """All points for completions of one length. The first is the yardstick: topk, one token a forward.

    lengths: gen_length and block_length are read. Curves of caches and suffixes have shorter blocks, a quarter of the
    completion at most, because there is nothing to store or to leave out where one block is the completion.
    """
    length, block = lengths.gen_length, lengths.block_length
    short = min(block, max(1, length // 4))
    found = list(_whole_blocks(length, block))
    for point in _thresholds("parallel", FEW_SHARES):
        found.append(Point(f"{point.curve}, blocks of {short}", point.value, {**point.rules, "block_length": short}))
        for name, value in (("cache", "prefix"), ("cache", "dual"), ("suffix", "none")):
            rules = {**point.rules, "block_length": short, name: value}
            found.append(Point(f"parallel, blocks of {short}, {name} {value}", point.value, rules))
    return found


def _whole_blocks(length: int, block: int) -> Iterator[Point]:
    for tokens in (1, 2, 4, 8, 16):
        if block % tokens == 0:
            yield Point("topk", tokens, {"decoder": "topk", "steps": length // tokens})
    yield from _thresholds("parallel", SHARES)
    for factor in (0.05, 0.1, 0.25, 0.5, 1.0, 2.0):
        yield Point("parallel, factor", factor, {"decoder": "parallel", "factor": factor})
    yield from _thresholds("risk", SHARES, steps=length)
    yield from _thresholds("credit", SHARES)
    for bound in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        yield Point("entropy", bound, {"decoder": "entropy", "entropy_bound": bound})
    for low in (0.9, 0.8, 0.6, 0.4, 0.2):
        yield Point("hierarchy", low, {"decoder": "hierarchy", "threshold": 0.9, "low_threshold": low})
    for wide in (0.9, 0.8, 0.7, 0.6, 0.5, 0.3):
        yield Point("wino", wide, {"decoder": "wino", "wino_threshold": wide})


def _thresholds(decoder: str, shares: Sequence[float], **more: Any) -> Iterator[Point]:
    for share in shares:
        yield Point(decoder, share, {"decoder": decoder, "threshold": share, **more})


def options_of(point: Point, lengths: DecodingOptions, temperature: float) -> DecodingOptions:
    """The decoding options of a point. Of `lengths` only the lengths count, what becomes of EOS, and the suffix, which
    belongs to the model."""
    kept = ("early_stop", "logits_eos_inf", "confidence_eos_eot_inf", "suffix", "block_length")
    rules: dict[str, Any] = {name: getattr(lengths, name) for name in kept} | {
        "steps": lengths.gen_length,
        **point.rules,
    }
    return DecodingOptions(gen_length=lengths.gen_length, temperature=temperature, **rules)
