"""What an objective is: weights of each group, a loss that is a sum over views, and scores of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor, nn

from ..config.keys import DMPOConfig
from ..distributed.ranks import rank_rows
from ..kernels import linear_weighted_ce
from ..losses.views import spread_over_views
from ..losses.weights import ImportanceWeights
from ..rollouts.batch import Batch, Completions
from ..rollouts.scoring import RoundScorer

ViewLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(views int64 [n], hidden [n, L, H] of these views, lm_head's weight [V, H], its bias [V] or None) → (loss, reports).

hidden is 0 at the positions that `Terms.scored` leaves out.
loss: what these views add to the loss of this rank, a scalar with gradient. reports [k]: what they add to each of the
objective's `reports`, detached."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One gradient step.

    model: the policy as accelerate wrapped it. index: counts the gradient steps of the run. finite: bool [groups], the
    groups that count; the batch has mask tokens and zeros for the others (`objectives.finite`). With
    `skip_equal_rewards` groups whose rewards all agree are among the others, and `view_loss` gets no views of them.
    """

    accelerator: Accelerator
    model: nn.Module
    batch: Batch
    config: DMPOConfig
    index: int
    finite: Tensor
    mask_id: int

    @property
    def own(self) -> slice:
        """This rank's rows among the rows of all ranks."""
        accelerator = self.accelerator
        return rank_rows(self.batch.rewards.numel(), accelerator.process_index, accelerator.num_processes)

    def spread(self, values: Tensor) -> Tensor:
        """Values of all ranks' completions [groups, G] as weights of this rank's views [R·B].

        A sum over views with these weights is the mean over views of a completion, the sum over a group of the values
        and the mean over groups (docs/maths.md, section 5). Groups that are not finite count 0.
        """
        return spread_over_views((self.of_finite(values) / len(values)).flatten()[self.own], self.config.replicates)

    def of_finite(self, values: Tensor) -> Tensor:
        """Values [groups, G], 0 where the group is not finite."""
        return values.masked_fill(~self.finite.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class Terms:
    """A loss as a sum over views; of this rank's N = R·B views, row = view · B + completion.

    What needs more than one view (weights, sizes of groups) is computed before, over whole groups and all ranks, and is
    constant here. So the views may pass through the model in micro-batches of any size.

    rows: the completion of each view, its prompt as the view shows it. masks: bool [N, L], the tokens of the completion
    that each view masks. view_loss: see `ViewLoss`. loss: the loss over all ranks, where it is known before the views
    pass through the model; None: it is the sum over views. scored: bool [N, L], the positions whose hidden states
    view_loss reads; None: all. Behind the last layer's attention the other positions are not computed.
    """

    rows: Completions
    masks: Tensor
    view_loss: ViewLoss
    loss: float | None = None
    scored: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Objective(RoundScorer):
    """A loss to train with: the functions of one file of this package. The config key `loss` chooses it.

    group_weights: (batch, config) → weights of every group [groups, G], and its proximal coefficient c [groups], NaN
    where there is none.
    terms: (step, weights) → the loss of a step. All ranks call it together. It returns None, on every rank, where a
    number that it needs beside the batch's scores is not finite.
    reports: names of what the loss adds to a line of metrics.jsonl; sums over views, of finite groups alone.
    score_round, score_reference: scores of its own for each round, see `scoring.RoundScorer`; by default none.
    """

    group_weights: Callable[[Batch, DMPOConfig], tuple[ImportanceWeights, Tensor]]
    terms: Callable[[Step, ImportanceWeights], Terms | None]
    reports: tuple[str, ...] = ()


def weighted_ce(
    rows: Completions, scored: Tensor, weights: Tensor, baseline: Tensor | None = None, strength: float = 1.0
) -> ViewLoss:
    """Σ_n (w_n − s·b_n) · mean NLL_n over views, through the kernel; scored bool [N, L], weights and baseline [N]."""

    def view_loss(views: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        of_views = rows.tokens[views], scored[views], weights[views], None if baseline is None else baseline[views]
        return linear_weighted_ce(hidden, weight, *of_views, strength, bias=bias)[0], weights.new_zeros(0)

    return view_loss
