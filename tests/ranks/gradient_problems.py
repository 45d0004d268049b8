"""One rank's rows of always the same groups, and a policy whose gradients are float64 throughout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmpo.distributed.ranks import rank_rows
from dmpo.models.lora import add_lora
from dmpo.objectives.diffu_grpo import CUR, REF
from dmpo.rollouts.batch import Batch, Completions
from tests.tiny_models import tiny, tokens

GROUPS, SIZE, PROMPT, LENGTH = 5, 5, 3, 6  # 25 rows: neither 2 nor 3 ranks get equal shares, and groups span them


def batch(rank: int, world: int) -> Batch:
    """One rank's rows of always the same groups."""
    count = GROUPS * SIZE
    share = rank_rows(count, rank, world)
    prompt_ids, completion_ids = tokens(count, PROMPT, seed=1), tokens(count, LENGTH, seed=2)
    eligible = torch.ones_like(completion_ids).bool()
    eligible[2, 4:] = False
    completions = Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), completion_ids, eligible)
    rewards, log_prob_ref, log_prob_cur = torch.randn(
        3, GROUPS, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    scores = -4 + torch.randn(2, count, 8, 3, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[1, 7, 0, 1, 2] = float("nan")  # of group 1, which is left out where they are read
    cur, ref = scores[:, share]
    order = torch.rand(count, LENGTH, generator=torch.Generator().manual_seed(2)).argsort(-1)
    return Batch(
        completions=completions[share],
        row_ids=torch.arange(count)[share],
        rewards=rewards,
        log_prob_ref=log_prob_ref,
        log_prob_cur=log_prob_cur,
        age=torch.zeros(GROUPS).long(),
        report={},
        scores={CUR: cur, REF: ref},
        drawn_order=order[share],
    )


class Norm(torch.nn.Module):
    """RMSNorm in the dtype of its input: transformers' is float32 inside, where a gradient times three is rounded."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * (hidden.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def policy(*, lora: bool, tied: bool = False) -> Any:
    model: Any = tiny(tie_embeddings=tied, num_kv_heads=1 if tied else None).double()
    for layer in model.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(layer, name, Norm(getattr(layer, name)))
    model.model.norm = Norm(model.model.norm)
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, rank=2, alpha=4, dropout=0.0).double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    return model
