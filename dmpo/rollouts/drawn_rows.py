"""How some completions of a round were drawn, token by token: what a run logs for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoding import Generation
from ..models.token_texts import token_texts


@dataclass(frozen=True)
class DrawnRows:
    """A few completions of a rank.

    rows: n places among the rank's rows; tokens int64 [n, L]; order int32 [n, L] and log_probs float32 [n, L]: as in
    `Generation`.
    """

    rows: list[int]
    tokens: Tensor
    order: Tensor
    log_probs: Tensor

    @classmethod
    def of(cls, generation: Generation, rows: list[int]) -> DrawnRows:
        """These rows of a generation; the rest of it can be freed."""
        order, device = generation.order, generation.order.device
        # Pinned, so that the copy does not wait for the device.
        index = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        tokens = generation.sequences[:, -order.shape[1] :]
        return cls(rows, tokens[index], order[index], generation.log_probs[index])

    def columns(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        """Of each completion, as JSON values: tokens (their texts), order, and log_probs in nats."""
        of_rows = zip(self.tokens.tolist(), self.order.tolist(), self.log_probs.double().tolist(), strict=True)
        return [
            {
                "tokens": token_texts(tokenizer, ids),
                "order": order,
                "log_probs": [round(value, 4) + 0.0 for value in log_probs],  # + 0.0: no -0.0
            }
            for ids, order, log_probs in of_rows
        ]


def rows_to_log(total: int, group_size: int, most: int, round_index: int) -> list[int]:
    """At most `most` of a rank's first `total` rows: those of a group side by side, other groups in each round.

    Whole groups come first; the last group may be cut. A rank without a whole group logs the rows that it has.
    """
    groups = total // group_size
    if not groups:
        return list(range(min(total, most)))
    count = min(groups, -(-most // group_size))
    chosen = [(round_index * count + index) % groups for index in range(count)]
    return [group * group_size + row for group in chosen for row in range(group_size)][:most]
