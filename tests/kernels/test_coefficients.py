"""If these fail, a row whose coefficient w - s * b is exactly 0 is live on one path and dead on another."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from dmpo.kernels import launch, linear_weighted_ce, reference, weighted_masked_ce
from tests.kernels.compiled_child import run_compiled
from tests.kernels.kernel_oracle import both_paths

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
STRENGTHS = (1.0, 0.1, 0.3, 1 / 3)


def cancelling(dtype: torch.dtype, other: torch.dtype, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and baselines of 40 rows: exactly 0 in every second one, and in the others only where too few digits are
    kept. Formed in the wide dtype of both."""
    wide = torch.float64 if torch.float64 in (dtype, other) else torch.float32
    baseline = torch.rand(40, generator=torch.Generator().manual_seed(3)).to(other)
    product = strength * baseline.to(wide)
    weights = product.to(dtype)
    weights[1::2] += (torch.finfo(dtype).eps * weights[1::2]).to(dtype)
    return weights, baseline


def live_rows(path_is_plain: bool, weights: torch.Tensor, baseline: torch.Tensor, strength: float) -> torch.Tensor:
    """Rows that the op looked at: of NaN logits, whose mean NLL is NaN; bool [40]."""
    targets, mask = torch.zeros(40, 1, dtype=torch.int64), torch.ones(40, 1, dtype=torch.bool)
    logits = torch.full((40, 1, 16), torch.nan)
    with launch.plain_path(path_is_plain):
        return weighted_masked_ce(logits, targets, mask, weights, baseline, strength)[1].isnan()


@both_paths
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("dtype", "other"), [*itertools.product(DTYPES, DTYPES)])
def test_dead_rows_are_those_of_the_wide_difference(
    path: str, dtype: torch.dtype, other: torch.dtype, strength: float
) -> None:
    weights, baseline = cancelling(dtype, other, strength)
    wide = torch.float64 if torch.float64 in (dtype, other) else torch.float32
    expected = weights.to(wide) - strength * baseline.to(wide) != 0
    assert torch.equal(live_rows(path == "plain", weights, baseline, strength), expected)
    assert torch.equal(reference.coefficients(weights, baseline, strength) != 0, expected)
    if torch.finfo(dtype).eps <= torch.finfo(wide).eps:
        assert not expected.all(), "no row cancels"
    assert expected.any()


@both_paths
@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_weights_do_not_round_the_loss(path: str, dtype: torch.dtype) -> None:
    """The loss of half-precision weights is that of the same numbers in float64."""
    generator = torch.Generator().manual_seed(1)
    weights, baseline = (torch.rand(6, generator=generator).to(dtype) for _ in range(2))
    logits = torch.randn(6, 3, 20, generator=generator)
    head, targets = torch.randn(20, 20, generator=generator), torch.randint(20, (6, 3), generator=generator)
    mask = torch.ones(6, 3, dtype=torch.bool)
    rows = (targets, mask, weights, baseline, 0.3)
    exact = (targets, mask, weights.double(), baseline.double(), 0.3)
    wanted = reference.weighted_masked_ce(logits.double(), *exact)[0]
    torch.testing.assert_close(weighted_masked_ce(logits, *rows)[0].double(), wanted, rtol=3e-6, atol=1e-6)
    torch.testing.assert_close(reference.weighted_masked_ce(logits, *rows)[0].double(), wanted, rtol=3e-6, atol=1e-6)
    wanted = reference.linear_weighted_ce(logits.double(), head.double(), *exact)[0]
    torch.testing.assert_close(linear_weighted_ce(logits, head, *rows)[0].double(), wanted, rtol=3e-6, atol=1e-5)


FUSED = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dmpo.kernels.production import production_kernels

seen = {}
for kernel in production_kernels():
    if kernel.arch == 90 and kernel.name in ("mean_nll_weighted", "mean_nll_weighted_half", "ce_forward_weighted_fp32"):
        source = ASTSource(kernel.fn, dict(kernel.signature), dict(kernel.constexprs), dict(kernel.attrs))
        options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages}
        for name, more in ((kernel.name, kernel.options), (kernel.name + "_fused", {"enable_fp_fusion": True})):
            binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={**options, **more})
            seen[name] = binary.asm["ptx"].count("fma.rn.f32")
print(json.dumps(seen))
"""


def test_compiled_kernels_round_the_product_before_the_difference() -> None:
    """A fused multiply-add rounds once: w - s * b would then not be 0 where PyTorch's is."""
    done = run_compiled("-c", FUSED)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) == 6
    for name, fused in seen.items():
        assert (fused > 0) == name.endswith("_fused"), seen
