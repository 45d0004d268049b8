"""If these fail, a public op breaks the graph of torch.compile for CUDA tensors, though it compiles on the CPU.

No GPU takes part: tensors are fake, with cuda:0 as their device, and traced only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from dmpo import kernels
from dmpo.kernels.remask import extension

M, H, V = 3, 8, 33


@dataclass
class Given:
    """Fake tensors: ids and mask [M, H], score [M, H] floating, targets and weights [M], head [V, H]."""

    ids: Tensor
    mask: Tensor
    score: Tensor
    targets: Tensor
    weights: Tensor
    head: Tensor

    @property
    def logits(self) -> Tensor:
        return self.score.unsqueeze(-1).expand(-1, -1, V) * 2

    @property
    def hidden(self) -> Tensor:
        return self.score.unsqueeze(-1).expand(-1, -1, H) * 2


def remask(x: Given) -> Tensor:
    tokens = x.ids * 1
    return kernels.remask_(tokens, x.ids, x.score, mask_id=V, num_transfer=2) + tokens.sum()


def remask_counts(x: Given) -> Tensor:
    return kernels.remask_(x.ids * 1, x.ids, x.score, mask_id=V, num_transfer=x.mask.sum(-1))


def remask_threshold(x: Given) -> Tensor:
    return kernels.remask_(x.ids * 1, x.ids, x.score, mask_id=V, threshold=0.5)


def revoke(x: Given) -> Tensor:
    return kernels.revoke_(x.ids * 1, x.score, mask_id=V, threshold=0.5, limit=x.mask.sum(-1))


def weighted_loss(x: Given) -> Tensor:
    return kernels.weighted_masked_ce(x.logits, x.ids, x.mask, x.weights, x.weights * 2, 0.5)[0]


def log_probs(x: Given) -> Tensor:
    return kernels.masked_token_logprobs(x.logits, x.ids, x.mask)


def linear_loss(x: Given) -> Tensor:
    return kernels.linear_weighted_ce(x.hidden, x.head, x.ids, x.mask, x.weights)[0]


def linear_log_probs(x: Given) -> Tensor:
    return kernels.linear_token_logprobs(x.score * 2, x.head, x.targets)


def draw(x: Given) -> Tensor:
    return kernels.sample_tokens(x.score * 2, 0.5, seed=1, forbid=(3,))[1]


def linear_draw(x: Given) -> Tensor:
    return kernels.linear_sample_tokens(x.score * 2, x.head, 0.5, seed=1, forbid=(3,))[1]


def draw_with_entropy(x: Given) -> Tensor:
    return kernels.sample_tokens_with_entropy(x.score * 2, 0.5, seed=1, forbid=(3,))[2]


def linear_draw_with_entropy(x: Given) -> Tensor:
    return kernels.linear_sample_tokens_with_entropy(x.score * 2, x.head, 0.5, seed=1, forbid=(3,))[2]


def remask_risk(x: Given) -> Tensor:
    return kernels.remask_(x.ids * 1, x.ids, x.score, mask_id=V, risk=0.9, num_transfer=1)


STEPS: dict[str, tuple[Callable[[Given], Tensor], str]] = {
    "a count": (remask, "remask_"),
    "a count each": (remask_counts, "remask_"),
    "a threshold": (remask_threshold, "remask_"),
    "a limit each": (revoke, "revoke_"),
    "loss": (weighted_loss, "weighted_masked_ce"),
    "log-probabilities": (log_probs, "masked_token_logprobs"),
    "loss from hidden states": (linear_loss, "linear_weighted_ce"),
    "log-probabilities from hidden states": (linear_log_probs, "linear_token_logprobs"),
    "draw": (draw, "sample_tokens"),
    "draw from hidden states": (linear_draw, "linear_sample_tokens"),
    "draw with entropy": (draw_with_entropy, "sample_tokens_with_entropy"),
    "draw with entropy from hidden states": (linear_draw_with_entropy, "linear_sample_tokens_with_entropy"),
    "a bounded risk": (remask_risk, "remask_"),
}


@pytest.mark.parametrize("step", STEPS)
def test_an_op_is_traced_into_one_graph(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an extension that has CUDA kernels; its own functions cannot be traced."""
    run, op = STEPS[step]
    monkeypatch.setattr(extension, "_has_cuda", True)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with FakeTensorMode(shape_env=ShapeEnv()):
        zeros = partial(torch.zeros, device="cuda")
        ids, mask, score = (zeros(M, H, dtype=dtype) for dtype in (torch.int64, torch.bool, torch.float32))
        given = Given(ids, mask, score, zeros(M, dtype=torch.int64), zeros(M), zeros(V, H))
        out = torch.compile(run, fullgraph=True, backend=keep)(given)
    assert out.device.type == "cuda"
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes if f"dmpo.{op}" in str(node.target)]


def test_every_public_op_is_traced() -> None:
    assert {op for _, op in STEPS.values()} == set(kernels.__all__) - {"reference"}
