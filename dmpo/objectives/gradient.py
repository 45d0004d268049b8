"""The gradient of one step (docs/maths.md, sections 2 to 5): the terms of its objective, then one walk over the views.

What depends on whole groups (weights, coefficients) is computed first, over all ranks; then the views pass through the
model once, in micro-batches of any size. What differs between objectives is in `dmpo.objectives`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config.checks import masks_whole_completions
from ..config.keys import DMPOConfig
from ..distributed.accumulation import accumulate
from ..distributed.ranks import rank_rows, summed
from ..losses.weights import ImportanceWeights
from ..models.masked_lm import special_ids
from ..rewards import find_object
from ..rollouts.batch import Batch
from ..rollouts.chunks import Chunk, chunks, view_order
from ..rollouts.dynamic_sampling import rewards_differ
from ..rollouts.likelihood import apply_head_to_views, kept_positions
from ..rollouts.scoring import pass_limits
from . import OBJECTIVES
from .finite import finite_groups, replace_non_finite
from .step import Objective, Step, Terms


@dataclass(frozen=True)
class StepResult:
    """loss: over all ranks. report: what the step says of itself, see `metrics`. idle: there is nothing to learn from,
    as the rewards of each group agree; there is no gradient."""

    loss: float
    report: dict[str, float]
    idle: bool = False


def objective_of(config: DMPOConfig) -> Objective:
    """The objective that the config key `loss` names: one of `OBJECTIVES`, or the user's own `module:name`.

    Raises:
        ValueError: the module cannot be imported, or the name is no `Objective`.
    """
    if config.loss in OBJECTIVES:
        return OBJECTIVES[config.loss]
    own = find_object(config.loss, "loss")
    if not isinstance(own, Objective):
        raise ValueError(f"loss {config.loss!r} must be an Objective of dmpo.objectives.step, got {type(own).__name__}")
    return own


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights of every group [groups, G] and its proximal coefficient [groups], as the config's loss has them."""
    return objective_of(config).group_weights(batch, config)


def accumulate_gradient(
    accelerator: Accelerator, model: nn.Module, policy: nn.Module, batch: Batch, config: DMPOConfig, step: int
) -> StepResult:
    """Add the gradient of the loss on fresh views to the parameters; the mean over ranks is the loss's own gradient.

    It does not depend on `micro_batch_size` nor on the ranks, up to rounding and dropout; all ranks make the same
    number of passes. Views of like length pass together, the longest first. `model` is `policy` as accelerate wrapped
    it. A group with a log-probability that is not finite is left out: it counts 0 in the mean over groups. So is, with
    `skip_equal_rewards`, a group whose rewards all agree. Where no group is left, or the terms are not finite, the loss
    is NaN, on every rank, and there is no gradient; where the rewards of each group agree, the loss is 0.
    """
    objective, (mask_id, _) = objective_of(config), special_ids(policy)
    own = rank_rows(batch.rewards.numel(), accelerator.process_index, accelerator.num_processes)
    finite = finite_groups(accelerator, batch)
    left_out = {"left_out": ~finite}
    differ = rewards_differ(batch.rewards) if config.skip_equal_rewards else None
    if differ is not None:
        left_out["left_out_equal"] = finite & ~differ
        finite = finite & differ
    batch = replace_non_finite(batch, finite, own, mask_id)
    weights, coeff = objective.group_weights(batch, config)
    this_step = Step(
        accelerator=accelerator, model=model, batch=batch, config=config, index=step, finite=finite, mask_id=mask_id
    )
    terms = objective.terms(this_step, weights) if finite.any() else None
    if terms is None:
        idle = differ is not None and not bool(differ.any())
        return _no_gradient(objective, batch, finite, left_out, idle=idle)
    model.train()
    walked, passes = _micro_batches(terms, this_step)

    def loss_of(number: int, live: bool) -> tuple[Tensor, Tensor]:
        # A rank with fewer passes makes one of a single view, and it counts nothing.
        chunk = passes[number] if live else replace(passes[0], index=passes[0].index[:1])
        return _of_micro_batch(model, terms, chunk, mask_id)

    sums = accumulate(accelerator, model, walked, loss_of, reports=len(objective.reports))
    loss_of_views, *reports_of_views = summed(accelerator, *sums)
    share = float(finite.double().mean())  # reports are means over finite groups, as ESS and c are
    report = _report(objective, weights, coeff, [value / share for value in reports_of_views], finite, left_out)
    return StepResult(loss_of_views if terms.loss is None else terms.loss, report)


def _micro_batches(terms: Terms, step: Step) -> tuple[int, list[Chunk]]:
    """The views of this rank by micro-batches of at most as many tokens as `micro_batch_size` of the longest views.

    Groups whose rewards agree may be left out: their views are in no micro-batch. Where this rank has no others, there
    are 0 micro-batches, and yet one in the list, of a view that counts nothing.
    """
    config, completions = step.config, len(step.batch.completions)
    scored = torch.ones_like(terms.masks) if terms.scored is None else terms.scored
    size = config.micro_batch_size or len(scored)
    limits = pass_limits(config, size, whole=masks_whole_completions(config.loss))
    order = walked = view_order(completions, config.replicates)
    if config.skip_equal_rewards:
        counts = step.finite.repeat_interleave(step.batch.rewards.shape[1])[step.own].tolist()
        walked = [view for view in order if counts[view % completions]]
    passes = chunks(terms.rows.prompt_mask, scored.sum(-1), scored.shape[1], limits, walked or order[:1])
    return len(passes) if walked else 0, passes


def _of_micro_batch(model: nn.Module, terms: Terms, chunk: Chunk, mask_id: int) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch, with gradient, and its reports."""
    rows, masks = terms.rows[chunk.index], terms.masks[chunk.index]
    kept = None if terms.scored is None else kept_positions(terms.scored[chunk.index])

    def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        if kept is not None:  # [M, H] -> [n, L, H]
            blank = hidden.new_zeros(masks.numel(), hidden.shape[-1])
            hidden = blank.index_copy(0, kept, hidden).view(*masks.shape, -1)
        return terms.view_loss(chunk.index, hidden, weight, bias)

    return apply_head_to_views(model, rows, masks, mask_id, head, kept=kept, chunk=chunk)


def scores_are_finite(batch: Batch) -> bool:
    """Whether all log-probabilities of a batch are finite, so that it has weights; the same on every rank."""
    return bool(batch.log_prob_ref.isfinite().all() and batch.log_prob_cur.isfinite().all())


def _no_gradient(
    objective: Objective, batch: Batch, finite: Tensor, left_out: dict[str, Tensor], *, idle: bool
) -> StepResult:
    nothing = torch.full_like(batch.rewards, math.nan)
    weights, coeff = ImportanceWeights(nothing, nothing, nothing[:, 0]), nothing[:, 0]
    report = _report(objective, weights, coeff, [math.nan] * len(objective.reports), finite, left_out)
    return StepResult(0.0 if idle else math.nan, report, idle)


def _report(
    objective: Objective,
    weights: ImportanceWeights,
    coeff: Tensor,
    reports: list[float],
    finite: Tensor,
    left_out: dict[str, Tensor],
) -> dict[str, float]:
    means = {name: float(x[finite].double().mean()) for name, x in (("ess", weights.ess), ("coeff", coeff))}
    counts = {name: int(groups.sum()) for name, groups in left_out.items()}
    return means | dict(zip(objective.reports, reports, strict=True)) | counts
