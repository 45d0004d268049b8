"""Makes the unmasking policy, the model pass and the compiled step of decoding options."""

from __future__ import annotations

from ..config.decoding import DecodingOptions
from .cached_step import CachedStep
from .canvas import Canvas
from .compiled_step import CompiledStep
from .passes import CachedPass, FullPass, ShadowPass
from .policies import Confident, Policy, Schedule, WideInNarrowOut
from .sampler import Sampler

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


def make_compiled_step(
    options: DecodingOptions, canvas: Canvas, model_pass: Pass, sampler: Sampler, policy: Policy
) -> CompiledStep:
    """The later steps of dual_cache's blocks, after the pass has stored keys and values for the first time."""
    assert isinstance(model_pass, CachedPass)
    assert model_pass.cache is not None
    return CompiledStep(CachedStep(canvas, model_pass.cache, sampler, policy, options))
