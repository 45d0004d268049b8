"""Makes the unmasking policy, the model pass and the compiled step of decoding options."""

from __future__ import annotations

from ..config.decoding import DecodingOptions
from ..config.names import is_own_name
from ..models.masked_lm import unwrap
from ..rewards import load_object
from .block_causal_pass import BlockCausalPass
from .cached_step import CachedStep
from .canvas import Canvas
from .compiled_step import CompiledStep
from .passes import CachedPass, FullPass, ShadowPass
from .policies import BoundedRisk, Confident, EntropyBound, Hierarchy, Policy, Schedule, WideInNarrowOut
from .sampler import Sampler

RISK_THRESHOLD = 0.9  # the published τ (SLIM-RL, arXiv 2607.00208)
CREDIT_THRESHOLD = 0.9  # the published one (CreditDecoding, arXiv 2510.06133)
Pass = FullPass | CachedPass | ShadowPass | BlockCausalPass


def make_policy(options: DecodingOptions) -> Policy:
    """The rule that says how many positions a step unmasks.

    Raises:
        ValueError: the user's own policy `module:name` cannot be imported, cannot be made of the options, or is none.
    """
    if is_own_name(options.decoder):
        return _own_policy(options)
    if options.decoder == "wino":
        return WideInNarrowOut(options.wino_threshold, options.wino_threshold_back)
    if options.decoder == "random_order":
        return Schedule(options.block_length, options.block_length)
    schedule = Schedule(options.block_length, options.steps // options.blocks)
    if options.decoder == "risk":
        return BoundedRisk(RISK_THRESHOLD if options.threshold is None else options.threshold, schedule)
    if options.decoder == "entropy":
        return EntropyBound(options.entropy_bound)
    if options.decoder == "credit":
        return Confident(CREDIT_THRESHOLD if options.threshold is None else options.threshold, None)
    if options.decoder == "hierarchy":
        return Hierarchy(options.threshold, options.low_threshold)
    if options.threshold is not None or options.factor is not None:
        return Confident(options.threshold, options.factor)
    return schedule


def _own_policy(options: DecodingOptions) -> Policy:
    make = load_object(options.decoder, "decoder")
    try:
        policy = make(options)
    except Exception as error:
        raise ValueError(f"decoder {options.decoder!r} cannot be made of the decoding options: {error}") from error
    if not isinstance(policy, Policy):
        wanted = "a policy with `revokes`, `count` and a call (dmpo.decoding.policies.Policy)"
        raise ValueError(f"decoder {options.decoder!r} must return {wanted}, got {type(policy).__name__}")
    return policy


def make_pass(options: DecodingOptions, canvas: Canvas) -> Pass:
    """The positions on which a step runs the model."""
    if unwrap(canvas.model).block_size is not None and options.cache != "none":
        return BlockCausalPass(canvas, options.block_length)
    if options.cached == "none":
        return (ShadowPass if options.decoder == "wino" else FullPass)(canvas, options.block_length)
    return CachedPass(canvas, options.block_length, options.cached == "dual", options.compiled)


def make_compiled_step(
    options: DecodingOptions, canvas: Canvas, model_pass: Pass, sampler: Sampler, policy: Policy
) -> CompiledStep:
    """The later steps of dual_cache's blocks, after the pass has stored keys and values for the first time."""
    assert isinstance(model_pass, CachedPass)
    assert model_pass.cache is not None
    return CompiledStep(CachedStep(canvas, model_pass.cache, sampler, policy, options))
