"""If these fail, the entropy that a draw returns is not its row's, or costs a second read of the logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from benchmarks.counted.meter import measure
from dmpo.kernels import (
    launch,
    linear_sample_tokens,
    linear_sample_tokens_with_entropy,
    reference,
    sample_tokens,
    sample_tokens_with_entropy,
)
from dmpo.kernels.sampling import plain as sampling_plain
from dmpo.kernels.sampling import triton_kernels as sampling_triton
from tests.kernels.kernel_oracle import both_paths
from tests.kernels.sampling_oracle import INF, NAN, random_logits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")  # NaN and inf on purpose, through numpy
TEMPERATURES = (0.0, 0.3, 1.0)


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128, so that small rows have several."""
    monkeypatch.setattr(sampling_triton, "launch_config", lambda *_: launch.LaunchConfig(128, 1))
    monkeypatch.setattr(sampling_plain, "TILE", 128)


small_tiles = pytest.mark.usefixtures("_small_tiles")


def by_definition(logits: Tensor, forbid: list[int]) -> Tensor:
    """-Σ p log p over the allowed tokens, in the dtype of the logits; 0 log 0 = 0."""
    allowed = logits.clone()
    allowed[:, forbid] = -INF
    return torch.special.entr(allowed.softmax(-1)).sum(-1)


def assert_as_exact_as_torch(entropy: Tensor, logits: Tensor, forbid: list[int]) -> None:
    """At most twice the error of PyTorch in float32, and the rounding of the result."""
    exact = by_definition(logits.double(), forbid)
    torch_error = (by_definition(logits.float(), forbid).double() - exact).abs().max()
    rounding = 2**-23 * exact.abs().max().clamp(min=1)
    assert (entropy.double() - exact).abs().max() <= 2 * torch_error + rounding


@both_paths
@small_tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("vocab", [1, 129, 1000])
def test_entropy_comes_with_the_same_draw(path: str, vocab: int, temperature: float, dtype: torch.dtype) -> None:
    logits = torch.cat([random_logits(4, vocab, dtype, scale) for scale in (0.01, 1.0, 5.0, 40.0)])
    forbid = [vocab // 2, 0, vocab - 1] if vocab > 3 else []
    ids, confidence, entropy = sample_tokens_with_entropy(logits, temperature, seed=7, forbid=forbid)
    wanted = sample_tokens(logits, temperature, seed=7, forbid=forbid)
    assert torch.equal(ids, wanted[0])
    assert torch.equal(confidence, wanted[1])
    assert entropy.dtype == torch.float32
    for rows in range(0, 16, 4):
        assert_as_exact_as_torch(entropy[rows : rows + 4], logits[rows : rows + 4], forbid)
    assert torch.equal(reference.row_entropy(logits, forbid).isnan(), entropy.isnan())


@both_paths
def test_full_vocabulary(path: str) -> None:
    logits = random_logits(2, 126464, torch.bfloat16)
    entropy = sample_tokens_with_entropy(logits, 0.2, seed=1, forbid=[126336])[2]
    assert_as_exact_as_torch(entropy, logits, [126336])


@both_paths
@small_tiles
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_infinities_and_nan(path: str, temperature: float) -> None:
    """+inf is the largest finite number: rows share their mass between their infinities. The other rows stay right."""
    logits = torch.zeros(6, 300)
    logits[0, 7] = INF
    logits[1, [3, 200]] = INF
    logits[2, 150] = NAN
    logits[3] = -INF
    logits[4, 10:] = -INF
    entropy = sample_tokens_with_entropy(logits, temperature, seed=0)[2]
    wanted = torch.tensor([0.0, math.log(2), NAN, NAN, math.log(10), math.log(300)])
    torch.testing.assert_close(entropy, wanted, equal_nan=True)
    torch.testing.assert_close(reference.row_entropy(logits), wanted, equal_nan=True)


@pytest.mark.parametrize("path", ["triton"], indirect=True)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_one_pass_over_the_logits(path: str, temperature: float) -> None:
    logits = random_logits(2, 126464, torch.bfloat16)
    found = measure(lambda: sample_tokens_with_entropy(logits, temperature, seed=0, forbid=[3]))
    assert 1 <= found.bytes_read / logits.nbytes <= 1.1
    assert found.bytes_written <= 0.01 * logits.nbytes
    assert found.launches == 2
    plain = measure(lambda: sample_tokens(logits, temperature, seed=0, forbid=[3]))
    assert plain.bytes_written < found.bytes_written, "a draw alone writes no entropy"


@both_paths
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("limit", [None, 1])
def test_from_hidden_states(path: str, temperature: float, limit: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((20, 16), (1000, 16), (1000,)))
    named: dict[str, Any] = {"seed": 3, "forbid": [1, 999], "bias": bias, "max_logits_bytes": limit}
    ids, confidence, entropy = linear_sample_tokens_with_entropy(hidden, weight, temperature, **named)
    wanted = linear_sample_tokens(hidden, weight, temperature, **named)
    assert torch.equal(ids, wanted[0])
    torch.testing.assert_close(confidence, wanted[1], rtol=1e-6, atol=0)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    exact = by_definition(torch.nn.functional.linear(hidden.double(), weight.double(), bias.double()), [1, 999])
    torch_error = (by_definition(logits, [1, 999]).double() - exact).abs().max()
    assert (entropy.double() - exact).abs().max() <= 2 * torch_error + 2**-23 * exact.max()


def test_rows_that_need_the_definition_have_theirs(device: torch.device) -> None:
    hidden, weight = torch.zeros(2, 4), torch.zeros(300, 4)
    hidden[0, 0], weight[5, 0] = INF, 1.0
    hidden[0, 1:] = 1.0
    entropy = linear_sample_tokens_with_entropy(hidden, weight, 1.0, seed=0)[2]
    definition = reference.linear_sample_tokens_with_entropy(hidden, weight, 1.0, seed=0)[2]
    torch.testing.assert_close(entropy, definition, equal_nan=True)
    assert entropy[1] == pytest.approx(math.log(300))


def test_operators(device: torch.device) -> None:
    logits, hidden, weight = random_logits(3, 40), random_logits(3, 8), random_logits(40, 8)
    opcheck(torch.ops.dmpo.sample_tokens_with_entropy.default, (logits, 0.7, 3, None, [2]))
    opcheck(torch.ops.dmpo.linear_sample_tokens_with_entropy.default, (hidden, weight, None, 0.7, 3, None, [2], None))
    with pytest.raises(ValueError, match="logits"):
        sample_tokens_with_entropy(logits[0], 1.0, seed=0)
    with pytest.raises(ValueError, match="temperature"):
        linear_sample_tokens_with_entropy(hidden, weight, -1.0, seed=0)
