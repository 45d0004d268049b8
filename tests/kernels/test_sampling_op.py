"""If these fail, the sampler breaks torch.compile, takes more memory than it says, or lets bad input through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmpo.kernels import sample_tokens
from dmpo.kernels.sampling import plain as sampling_plain
from tests.kernels.kernel_oracle import both_paths
from tests.kernels.sampling_oracle import INF, NAN, Allocations, random_logits


@both_paths
def test_no_rows(path: str) -> None:
    ids, confidence = sample_tokens(torch.empty(0, 50), 1.0, seed=0)
    assert ids.shape == confidence.shape == (0,)


def test_plain_path_is_bounded_in_memory() -> None:
    """Chunks only, and nothing in float64 or int64 as long as the vocabulary: no random number per logit."""
    logits = random_logits(24, 126464, torch.bfloat16)
    with Allocations() as sizes:
        sampling_plain.sample(logits, 0.3, 0, None, [5], "cdf")
    new = [(dtype, n) for dtype, n in sizes.seen if dtype != torch.bfloat16]
    assert max(n for _, n in new) <= sampling_plain.CHUNK + 126464
    assert max(n for dtype, n in new if dtype in (torch.float64, torch.int64)) <= sampling_plain.TILE * 24
    assert len(new) > 20


@both_paths
def test_custom_op_is_sound(path: str) -> None:
    logits = random_logits(3, 200)
    for row_ids in (None, torch.tensor([4, 5, 6])):
        torch.library.opcheck(torch.ops.dmpo.sample_tokens.default, (logits, 0.7, 3, row_ids, [2], "cdf"))


@both_paths
def test_compiles_without_a_graph_break(path: str) -> None:
    def step(hidden: Tensor, seed: int) -> Tensor:
        ids, confidence = sample_tokens(hidden * 2, 0.5, seed=seed, forbid=(3,))
        return ids.float() + confidence

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    logits = random_logits(3, 150).requires_grad_()
    for seed in (1, 2, 3):
        out = compiled(logits, seed)
        assert torch.equal(out, step(logits, seed))
        assert not out.requires_grad


BAD = [
    ({"logits": [[0.0]]}, TypeError, "logits"),
    ({"logits": torch.zeros(5)}, ValueError, "logits"),
    ({"logits": torch.zeros(2, 0)}, ValueError, "logits"),
    ({"logits": torch.zeros(2, 5, dtype=torch.int64)}, ValueError, "logits"),
    ({"temperature": -0.1}, ValueError, "temperature"),
    ({"temperature": NAN}, ValueError, "temperature"),
    ({"temperature": INF}, ValueError, "temperature"),
    ({"temperature": 1e-40}, ValueError, "temperature"),
    ({"temperature": "1"}, TypeError, "temperature"),
    ({"seed": 1.5}, TypeError, "seed"),
    ({"seed": None}, TypeError, "seed"),
    ({"row_ids": [0, 1]}, TypeError, "row_ids"),
    ({"row_ids": torch.arange(3)}, ValueError, "row_ids"),
    ({"row_ids": torch.arange(2).int()}, ValueError, "row_ids"),
    ({"row_ids": torch.arange(2, device="meta")}, ValueError, "row_ids"),
    ({"forbid": [5]}, ValueError, "forbid"),
    ({"forbid": [-1]}, ValueError, "forbid"),
    ({"forbid": [1.0]}, TypeError, "forbid"),
    ({"forbid": 3}, TypeError, "forbid"),
    ({"forbid": [0, 1, 2, 3, 4]}, ValueError, "forbid"),
    ({"mode": "nucleus"}, ValueError, "mode"),
]


@pytest.mark.cpu_only("the same checks run on a GPU")
@both_paths
@pytest.mark.parametrize(("change", "error", "name"), BAD)
def test_bad_input_is_refused_by_name(path: str, change: dict, error: type[Exception], name: str) -> None:
    arguments = {"logits": torch.zeros(2, 5), "temperature": 1.0, "seed": 0} | change
    with pytest.raises(error, match=f"^{name}: got"):
        sample_tokens(arguments.pop("logits"), arguments.pop("temperature"), **arguments)
