"""What an objective is: weights of each group, and a loss that is a sum over views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor, nn

from ..batch import Batch
from ..config import DMPOConfig
from ..kernels import linear_weighted_ce
from ..likelihood import Completions
from ..losses import spread_over_views
from ..masked_lm import HeadFunction
from ..parallel import rank_rows
from ..weights import ImportanceWeights

PartOfViews = Callable[[slice], HeadFunction[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Step:
    """One gradient step: `index` counts them over the run; `model` is the policy as accelerate wrapped it.

    sound: bool [groups], those that count; the batch has stand-ins for the others (`objectives.sound`).
    """

    accelerator: Accelerator
    model: nn.Module
    batch: Batch
    config: DMPOConfig
    index: int
    sound: Tensor

    @property
    def own(self) -> slice:
        """This rank's rows among those of all ranks."""
        accelerator = self.accelerator
        return rank_rows(self.batch.rewards.numel(), accelerator.process_index, accelerator.num_processes)

    def spread(self, values: Tensor) -> Tensor:
        """Values of all ranks' completions [groups, G] as weights of this rank's views [R·B].

        A sum over views weighted by them is the mean over views of a completion, the sum over a group of the values
        and the mean over groups (docs/maths.md, section 5). Groups that are not sound count 0.
        """
        return spread_over_views((self.of_sound(values) / len(values)).flatten()[self.own], self.config.replicates)

    def of_sound(self, values: Tensor) -> Tensor:
        """Values [groups, G], 0 where the group is not sound."""
        return values.masked_fill(~self.sound.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class Terms:
    """A loss as a sum over views; of this rank's N = R·B views, row = view · B + completion.

    What no view can tell alone (weights, sizes of groups) is found over whole groups and all ranks before, and is
    constant here: so the views may pass through the model in micro-batches of any size.

    rows: the completion of each view, its prompt as the view shows it. masks: bool [N, L], what of the completion it
    masks. head: of some of the views, a function of their hidden states [n, L, H], lm_head's weight and its bias; it
    returns their part of the loss, a scalar with gradient, and their parts of the objective's REPORTS, detached [k].
    loss: that of all ranks where it is known before the walk; None: the sum of the parts.
    """

    rows: Completions
    masks: Tensor
    head: PartOfViews
    loss: float | None = None


class Objective(Protocol):
    """A loss to train with: a module of this package with these names, chosen by the config key `loss`."""

    REPORTS: tuple[str, ...]  # what it adds to a line of metrics.jsonl: sums over views, of sound groups alone

    def group_weights(self, batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
        """Weights of every group [groups, G], and its proximal coefficient c [groups], NaN where there is none."""

    def terms(self, step: Step, weights: ImportanceWeights) -> Terms | None:
        """The loss of a step; None, on every rank, where what it needs beside the batch's scores is not finite.

        Called by all ranks together.
        """


def weighted_ce(
    rows: Completions, scored: Tensor, weights: Tensor, baseline: Tensor | None = None, strength: float = 1.0
) -> PartOfViews:
    """Σ_n (w_n − s·b_n) · mean NLL_n over views, through the kernel: scored bool [N, L], weights and baseline [N]."""

    def head(part: slice) -> HeadFunction[tuple[Tensor, Tensor]]:
        of_part = rows[part].tokens, scored[part], weights[part], None if baseline is None else baseline[part]

        def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
            return linear_weighted_ce(hidden, weight, *of_part, strength, bias=bias)[0], weights.new_zeros(0)

        return loss

    return head
