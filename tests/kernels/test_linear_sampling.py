"""If these fail, decoders that draw straight from hidden states draw other tokens than from logits, or hold the logits
in memory after all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from dmpo.kernels import linear_sample_tokens, reference, sample_tokens
from dmpo.kernels.sampling import from_hidden as linear_sampling
from tests.kernels.kernel_oracle import FLOATS, both_paths
from tests.kernels.linear_problems import keeps_half_precision
from tests.kernels.sampling_oracle import INF, NAN, Allocations, assert_same_draw, chi_square_p

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),  # NaN and inf on purpose, through numpy
    pytest.mark.usefixtures("device"),
]


def problem(rows: int, vocab: int, size: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """hidden and weight with logits of about ±3."""
    g = torch.Generator().manual_seed(rows + vocab)
    hidden, weight = torch.randn(rows, size, generator=g), torch.randn(vocab, size, generator=g)
    return hidden.to(dtype), (weight * (3 / size**0.5)).to(dtype)


def exact_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(hidden.double(), weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0, 1.5])
@pytest.mark.parametrize("vocab", [1, 2, 129, 1000])  # less than a tile; one over; several with a ragged end
def test_draws_and_confidence_match_the_definition(vocab: int, temperature: float, dtype: torch.dtype) -> None:
    hidden, weight = problem(12, vocab, dtype=dtype)
    bias = torch.randn(vocab, generator=torch.Generator().manual_seed(1))
    row_ids, forbid = torch.arange(12) * 5 + 3, [vocab // 2, 0, vocab - 1] if vocab > 3 else []
    ids, confidence = linear_sample_tokens(
        hidden, weight, temperature, seed=7, row_ids=row_ids, forbid=forbid, bias=bias
    )
    assert ids.dtype == torch.int64
    assert confidence.dtype == torch.float32
    exact = exact_logits(hidden, weight, bias)
    if keeps_half_precision(hidden):  # logits are then a linear layer's, rounded to the inputs' dtype
        exact = torch.nn.functional.linear(hidden, weight, bias.to(dtype)).double()
    assert_same_draw(ids, exact, temperature, 7, row_ids, forbid, rounding=1e-5)
    exact[:, forbid] = -INF
    probs, rounded = exact.softmax(-1).gather(-1, ids[:, None])[:, 0], exact.float().softmax(-1)
    error = (rounded.gather(-1, ids[:, None])[:, 0] - probs).abs().max()
    assert (confidence - probs).abs().max() <= 2 * error + 4e-7 * float(exact[exact > -INF].abs().max())


@both_paths
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("vocab", [126464, 126463])  # LLaDA's, and one no vector width divides
def test_full_vocabulary_is_drawn_as_from_logits(path: str, vocab: int, temperature: float) -> None:
    hidden, weight = problem(5, vocab, size=8)
    row_ids = torch.tensor([3, 1 << 40, 0, 9, 77])
    found = linear_sample_tokens(hidden, weight, temperature, seed=1, row_ids=row_ids, forbid=[126336])
    wanted = sample_tokens(hidden @ weight.t(), temperature, seed=1, row_ids=row_ids, forbid=[126336])
    assert_same_draw(found[0], exact_logits(hidden, weight), temperature, 1, row_ids, [126336], rounding=1e-5)
    same = found[0] == wanted[0]
    assert same.sum() >= 4
    torch.testing.assert_close(found[1][same], wanted[1][same], rtol=2e-5, atol=0)


@pytest.mark.parametrize("scale", [1e3, 1e-4])
def test_huge_and_flat_logits(scale: float) -> None:
    """Whole numbers, and fractions of two: products are exact, so nothing may differ but by the draw's own rounding."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randint(-8, 9, (9, 4), generator=g).float() * 2.0 ** round(torch.tensor(scale).log2().item())
    weight = torch.randint(-8, 9, (700, 4), generator=g).float()
    for temperature in (0.0, 0.2, 1.0, 1e-30, 1e30):
        ids, confidence = linear_sample_tokens(hidden, weight, temperature, seed=3)
        assert_same_draw(ids, hidden @ weight.t(), temperature, 3, torch.arange(9), [])
        probs = (hidden @ weight.t()).double().softmax(-1).gather(-1, ids[:, None])[:, 0]
        torch.testing.assert_close(confidence.double(), probs, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.5])
def test_chi_square(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_sampling, "TILE", 16)  # 7 tiles of 100 tokens
    hidden, weight = problem(1, 100, size=4)
    probs = exact_logits(hidden, weight)
    ids, _ = linear_sample_tokens(hidden.expand(200_000, -1), weight, temperature, seed=11, forbid=[4, 50])
    probs[:, [4, 50]] = -INF
    assert chi_square_p(ids.bincount(minlength=100), (probs[0] / temperature).softmax(-1)) > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_do_not_depend_on_rows_beside_nor_on_the_bound(
    temperature: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states of small whole numbers: products are exact in any order, so equal to the last bit."""
    hidden, weight = ((x * 4).round() for x in problem(41, 900, size=8, dtype=dtype))
    hidden /= 16
    row_ids = torch.arange(41) * 3 + 2
    whole = linear_sample_tokens(hidden, weight, temperature, seed=2, row_ids=row_ids)
    for sizes, limit in (([1] * 41, None), ([4, 37], None), ([41], 1), ([41], 9000), ([20, 21], 1 << 30)):
        parts = [
            linear_sample_tokens(h, weight, temperature, seed=2, row_ids=r, max_logits_bytes=limit)
            for h, r in zip(hidden.split(sizes), row_ids.split(sizes), strict=True)
        ]
        for got, want in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
            assert torch.equal(got, want)
    monkeypatch.setattr(linear_sampling, "MOST_ROWS", 8)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(0))
    shuffled = linear_sample_tokens(hidden[order], weight, temperature, seed=2, row_ids=row_ids[order])
    assert torch.equal(shuffled[0], whole[0][order])
    assert torch.equal(shuffled[1], whole[1][order])


@both_paths
def test_chunks_of_rows_keep_their_draws(path: str) -> None:
    """Row ids go with the rows, given or not."""
    hidden, weight = problem(9, 300)
    for row_ids in (None, torch.arange(18)[::2]):
        whole = linear_sample_tokens(hidden, weight, 1.0, seed=3, row_ids=row_ids)
        parts = linear_sample_tokens(hidden, weight, 1.0, seed=3, row_ids=row_ids, max_logits_bytes=1200)
        assert torch.equal(parts[0], whole[0])
        torch.testing.assert_close(parts[1], whole[1], rtol=1e-5, atol=0)


@both_paths
def test_temperature_zero_takes_the_first_largest_allowed_logit(path: str) -> None:
    hidden, weight = torch.eye(4), torch.zeros(300, 4)
    weight[[290, 140, 13], 0] = 2.0  # three tiles
    weight[[5, 2], 1] = 3.0
    weight[299, 2] = 1.0
    ids, confidence = linear_sample_tokens(hidden, weight, 0, seed=0, forbid=[2])
    assert ids.tolist() == [13, 5, 299, 0]
    assert confidence[3].item() == pytest.approx(1 / 299)


@both_paths
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_rows_without_a_distribution(path: str, temperature: float) -> None:
    """NaN and overflow in hidden states; infinities in a logit alone, through the bias."""
    hidden, weight = problem(1, 300)
    hidden = hidden.repeat(5, 1)
    hidden[1, 3] = NAN
    hidden[2] = NAN
    hidden[3] = torch.eye(16)[0] * 3e38  # some logits overflow to +inf, some to -inf, none to NaN
    row_ids = torch.zeros(5).long()
    ids, confidence = linear_sample_tokens(hidden, weight, temperature, seed=6, row_ids=row_ids, forbid=[0])
    logits = hidden @ weight.t()
    assert logits[3].isinf().sum() > 1
    assert not logits[3].isnan().any()
    want = sample_tokens(logits, temperature, seed=6, row_ids=row_ids, forbid=[0])
    assert torch.equal(ids, want[0])
    assert ids.tolist()[1:3] == [1, 1]
    torch.testing.assert_close(confidence, want[1], rtol=1e-5, atol=0, equal_nan=True)
    assert confidence.isnan().tolist()[:3] == [False, True, True]

    bias = torch.zeros(300)
    bias[[0, 150]] = torch.tensor([NAN, INF])  # a forbidden token is not looked at
    ids, confidence = linear_sample_tokens(hidden[:1], weight, temperature, seed=6, forbid=[0], bias=bias)
    assert (ids.item(), confidence.item()) == (150, 1.0)
    bias[:] = -INF
    ids, confidence = linear_sample_tokens(hidden[:1], weight, temperature, seed=6, forbid=[0], bias=bias)
    assert ids.item() == 1
    assert confidence.isnan().all()
    bias[220] = 0.0
    ids, confidence = linear_sample_tokens(hidden[:1], weight, temperature, seed=6, forbid=[0], bias=bias)
    assert (ids.item(), confidence.item()) == (220, 1.0)


def test_forbidden_tokens_are_never_drawn() -> None:
    """Uniforms closest to 0 and to 1 among two million; whole tiles forbidden before and after, with more mass."""
    u = reference.uniform(0, torch.arange(2_000_000))
    row_ids = torch.tensor([int(u.argmin()), int(u.argmax())])
    bias = torch.cat([torch.full((130,), 80.0), torch.zeros(140), torch.full((130,), 80.0)])
    forbid = [*range(130), *range(270, 400)]
    for temperature in (0.5, 1.0):
        ids, _ = linear_sample_tokens(
            torch.zeros(2, 3), torch.zeros(400, 3), temperature, seed=0, row_ids=row_ids, forbid=forbid, bias=bias
        )
        assert ids.tolist() == [130, 269]


@pytest.mark.cpu_only("memory of the plain path")
@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_logits_exist_only_in_a_piece(temperature: float) -> None:
    hidden, weight = problem(300, 20_000, size=4)
    for limit in (1 << 18, 1 << 20):
        walk = linear_sampling.TilePass(hidden, weight, None, limit, temperature)
        assert limit / 2 < sum(piece.nbytes for piece in walk.buffers) <= limit
        with Allocations() as sizes:
            walk(hidden[: walk.rows], temperature, 0, torch.arange(walk.rows), [5])
        tile_sums = walk.rows * walk.tiles * 8  # float64, while a tile is chosen
        largest = max(n * dtype.itemsize for dtype, n in sizes.seen)  # the head's own memory among them
        assert largest <= max(limit, tile_sums, weight.nbytes) < 300 * 20_000


@both_paths
def test_custom_op_is_sound(path: str) -> None:
    hidden, weight = problem(3, 200)
    for row_ids, bias in ((None, None), (torch.tensor([4, 5, 6]), torch.zeros(200))):
        arguments = (hidden, weight, bias, 0.7, 3, row_ids, [2], None)
        opcheck(torch.ops.dmpo.linear_sample_tokens.default, arguments)


@both_paths
def test_compiles_without_a_graph_break(path: str) -> None:
    weight = problem(3, 150)[1].requires_grad_()

    def step(hidden: Tensor, seed: int) -> Tensor:
        ids, confidence = linear_sample_tokens(hidden * 2, weight, 0.5, seed=seed, forbid=(3,))
        return ids.float() + confidence

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    hidden = problem(3, 150)[0].requires_grad_()
    for seed in (1, 2, 3):
        out = compiled(hidden, seed)
        assert torch.equal(out, step(hidden, seed))
        assert not out.requires_grad


@both_paths
def test_autocast_casts_as_a_linear_layer_does(path: str) -> None:
    hidden, weight = problem(4, 200)
    low = linear_sample_tokens(hidden.bfloat16(), weight.bfloat16(), 1.0, seed=0)
    with torch.autocast(hidden.device.type, torch.bfloat16):
        cast = linear_sample_tokens(hidden, weight, 1.0, seed=0)
    assert torch.equal(cast[0], low[0])
    assert torch.equal(cast[1], low[1])


@both_paths
def test_no_rows(path: str) -> None:
    ids, confidence = linear_sample_tokens(torch.empty(0, 5), torch.zeros(50, 5), 1.0, seed=0)
    assert ids.shape == confidence.shape == (0,)


BAD = [
    ({"hidden": [[0.0]]}, TypeError, "hidden"),
    ({"hidden": torch.zeros(4)}, ValueError, "hidden"),
    ({"weight": torch.nn.Linear(4, 5)}, TypeError, "weight"),
    ({"weight": torch.zeros(5, 3)}, ValueError, "weight"),
    ({"weight": torch.zeros(5, 4).double()}, ValueError, "weight"),
    ({"weight": torch.zeros(0, 4)}, ValueError, "weight"),
    ({"bias": torch.zeros(4)}, ValueError, "bias"),
    ({"temperature": -0.1}, ValueError, "temperature"),
    ({"seed": 1.5}, TypeError, "seed"),
    ({"row_ids": torch.arange(3)}, ValueError, "row_ids"),
    ({"forbid": [5]}, ValueError, "forbid"),
    ({"forbid": [0, 1, 2, 3, 4]}, ValueError, "forbid"),
    ({"max_logits_bytes": 0}, ValueError, "max_logits_bytes"),
    ({"max_logits_bytes": 1.0}, TypeError, "max_logits_bytes"),
]


@pytest.mark.cpu_only("the same checks run on a GPU")
@pytest.mark.parametrize(("change", "error", "name"), BAD)
def test_bad_input_is_refused_by_name(change: dict, error: type[Exception], name: str) -> None:
    arguments = {"hidden": torch.zeros(2, 4), "weight": torch.zeros(5, 4), "temperature": 1.0, "seed": 0} | change
    with pytest.raises(error, match=f"^{name}: got"):
        linear_sample_tokens(
            arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("temperature"), **arguments
        )
