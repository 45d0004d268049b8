"""Makes the unmasking policy and the model pass of decoding options."""

from __future__ import annotations

from ..config.decoding import DecodingOptions
from .canvas import Canvas
from .passes import CachedPass, FullPass, ShadowPass
from .policies import Confident, Policy, Schedule, WideInNarrowOut

Pass = FullPass | CachedPass | ShadowPass


def make_policy(options: DecodingOptions) -> Policy:
    """The rule that says how many positions a step unmasks."""
    if options.decoder == "wino":
        return WideInNarrowOut(options.wino_threshold, options.wino_threshold_back)
    if options.decoder == "random_order":
        return Schedule(options.block_length, options.block_length)
    if options.threshold is not None or options.factor is not None:
        return Confident(options.threshold, options.factor)
    return Schedule(options.block_length, options.steps // options.blocks)


def make_pass(options: DecodingOptions, canvas: Canvas) -> Pass:
    """The positions on which a step runs the model."""
    if options.decoder in ("prefix_cache", "dual_cache"):
        return CachedPass(canvas, options.block_length, options.decoder == "dual_cache", options.compiled)
    return (ShadowPass if options.decoder == "wino" else FullPass)(canvas, options.block_length)
