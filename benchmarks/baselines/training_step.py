"""The loss of a training step on a small transformer: as published, and with a gather of masked positions first.

Both give the same number: sum_n w_n · mean NLL_n of the masked positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module):
    """Token embedding and two bidirectional layers; frozen embedding and head, as under LoRA."""

    def __init__(self, vocab: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden).requires_grad_(False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)  # [N, L, H]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def published(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Logits of every position, cross-entropy over all, masked afterwards; as in the released code.

    ids, targets, mask: [N, L]. weights: [N]. Returns a scalar.
    """
    logits = model.head(model(ids))  # [N, L, V]
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (weights * (nll * mask).sum(1) / mask.sum(1)).sum()


def masked(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Hidden states of masked positions gathered before the head; arguments and result as `published`."""
    nll = F.cross_entropy(model.head(model(ids)[mask]), targets[mask], reduction="none")  # [M]
    share = (weights / mask.sum(1)).unsqueeze(1).expand_as(targets)[mask]
    return (share * nll).sum()
