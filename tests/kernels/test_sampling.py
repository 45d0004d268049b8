"""If these fail, decoders draw from the wrong distribution, report a wrong confidence, or depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmpo.kernels import launch, reference, sample_tokens, sampling_plain
from dmpo.kernels.sampling_triton import _pick
from tests.kernels.sampling_oracle import (
    INF,
    NAN,
    assert_confidence_is_as_exact_as_torch,
    assert_same_draw,
    chi_square_p,
    random_logits,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")  # NaN and inf on purpose, through numpy


@pytest.fixture(params=["plain", "triton"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both implementations; tiles of 128 in the Triton one, so that small rows have several."""
    if request.param == "triton":
        assert launch.INTERPRETED, "tests/conftest.py sets TRITON_INTERPRET=1 before anything imports triton"
        from dmpo.kernels import sampling_triton

        monkeypatch.setattr(sampling_triton, "launch_config", lambda *_: launch.LaunchConfig(128, 1))
    else:
        monkeypatch.setattr(sampling_plain, "TILE", 128)
    with launch.plain_path(request.param == "plain"):
        yield request.param


@pytest.fixture(params=["plain", "triton"])
def full_size_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both implementations with the tiles used in production."""
    assert launch.INTERPRETED
    with launch.plain_path(request.param == "plain"):
        yield request.param


@pytest.fixture
def plain() -> Iterator[None]:
    with launch.plain_path():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0, 1.5])
@pytest.mark.parametrize("vocab", [1, 2, 129, 1000])  # less than a tile; one over; several with a ragged end
def test_draws_and_confidence_match_the_definition(
    path: str, vocab: int, temperature: float, dtype: torch.dtype
) -> None:
    logits = random_logits(12, vocab, dtype)
    row_ids = torch.arange(12) * 5 + 3
    forbid = [vocab // 2, 0, vocab - 1] if vocab > 3 else []
    ids, confidence = sample_tokens(logits, temperature, seed=7, row_ids=row_ids, forbid=forbid)
    assert ids.dtype == torch.int64
    assert confidence.dtype == torch.float32
    assert_same_draw(ids, logits, temperature, 7, row_ids, forbid)
    assert_confidence_is_as_exact_as_torch(ids, confidence, logits, forbid)


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("vocab", [126464, 126463])  # LLaDA's, and one no vector width divides
def test_full_vocabulary(full_size_path: str, vocab: int, temperature: float) -> None:
    logits = random_logits(4, vocab, torch.bfloat16)
    row_ids = torch.tensor([3, 1 << 40, 0, 9])
    ids, confidence = sample_tokens(logits, temperature, seed=1, row_ids=row_ids, forbid=[126336])
    assert_same_draw(ids, logits, temperature, 1, row_ids, [126336])
    assert_confidence_is_as_exact_as_torch(ids, confidence, logits, [126336])


@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_huge_and_flat_logits(path: str, scale: float) -> None:
    logits = random_logits(8, 700, scale=scale)
    for temperature in (0.2, 1.0, 1e-30, 1e30):
        ids, confidence = sample_tokens(logits, temperature, seed=3)
        assert_same_draw(ids, logits, temperature, 3, torch.arange(8), [])
        assert_confidence_is_as_exact_as_torch(ids, confidence, logits, [])


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.5])
def test_chi_square_of_a_million_draws(plain: None, monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setattr(sampling_plain, "TILE", 16)  # 6 tiles of 100 tokens
    logits = random_logits(1, 100, scale=1.0)
    ids, _ = sample_tokens(logits.expand(1_000_000, -1), temperature, seed=11, forbid=[4, 50])
    logits[:, [4, 50]] = -INF
    assert chi_square_p(ids.bincount(minlength=100), (logits[0].double() / temperature).softmax(-1)) > 1e-3


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.5])
def test_chi_square_of_the_gumbel_oracle(plain: None, temperature: float) -> None:
    logits = random_logits(1, 40, scale=1.0)
    ids, _ = sample_tokens(logits.expand(200_000, -1), temperature, seed=12, forbid=[4], mode="gumbel")
    logits[:, 4] = -INF
    assert chi_square_p(ids.bincount(minlength=40), (logits[0].double() / temperature).softmax(-1)) > 1e-3


@pytest.mark.parametrize("mode", ["cdf", "gumbel"])
def test_chi_square_of_the_kernels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmpo.kernels import sampling_triton

    monkeypatch.setattr(sampling_triton, "launch_config", lambda *_: launch.LaunchConfig(64, 1))
    logits = torch.full((1, 100), -INF)
    logits[0, ::9] = random_logits(1, 12, scale=1.0)[0]  # on both sides of the tiles' border
    with launch.plain_path(False):
        ids, _ = sample_tokens(logits.expand(250, -1), 1.5, seed=13, forbid=[9], mode=mode)
    logits[:, 9] = -INF
    assert chi_square_p(ids.bincount(minlength=100), (logits[0].double() / 1.5).softmax(-1)) > 1e-3


def test_gumbel_kernel_draws_what_its_definition_draws(path: str) -> None:
    logits = random_logits(16, 300, torch.float16)
    for temperature in (0.0, 0.2, 1.5):
        ids, confidence = sample_tokens(logits, temperature, seed=5, forbid=[7], mode="gumbel")
        want, probability = reference.sample_tokens(logits.double(), temperature, seed=5, forbid=[7], mode="gumbel")
        assert torch.equal(ids, want)
        assert (confidence - probability).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["cdf", "gumbel"])
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_draws_do_not_depend_on_the_batch(path: str, temperature: float, mode: str) -> None:
    logits = random_logits(9, 500)
    row_ids = torch.arange(9) * 3 + 2
    whole = sample_tokens(logits, temperature, seed=2, row_ids=row_ids, mode=mode)
    for sizes in ([1] * 9, [4, 5]):
        parts = [
            sample_tokens(x, temperature, seed=2, row_ids=r, mode=mode)
            for x, r in zip(logits.split(sizes), row_ids.split(sizes), strict=True)
        ]
        for got, want in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
            assert torch.equal(got, want)
    order = torch.tensor([5, 0, 8, 3, 1, 2, 7, 6, 4])
    shuffled = sample_tokens(logits[order], temperature, seed=2, row_ids=row_ids[order], mode=mode)
    assert torch.equal(shuffled[0], whole[0][order])
    assert torch.equal(shuffled[1], whole[1][order])


def test_batch_of_a_full_vocabulary_in_any_chunks(plain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(7, 126463)
    whole = sample_tokens(logits, 0.7, seed=4)
    monkeypatch.setattr(sampling_plain, "CHUNK", 1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)  # that many rows at a time
            again = sample_tokens(logits, 0.7, seed=4)
            assert torch.equal(again[0], whole[0])
            assert torch.equal(again[1], whole[1])
    finally:
        torch.set_num_threads(threads)


def test_row_ids_default_to_the_row_number_and_any_layout_is_read(path: str) -> None:
    logits = random_logits(6, 400)
    ids, confidence = sample_tokens(logits, 1.0, seed=9, row_ids=torch.arange(6))
    before = logits.clone()
    padded = torch.full((6, 500), 50.0)
    padded[:, :400] = logits
    for same in (logits, padded[:, :400], logits.t().contiguous().t(), torch.stack([logits, logits], 1)[:, 1]):
        again = sample_tokens(same, 1.0, seed=9)
        assert torch.equal(again[0], ids)
        assert torch.equal(again[1], confidence)
    sample_tokens(logits, 0.3, seed=9, forbid=[1])
    assert torch.equal(logits, before)


def test_temperature_zero_takes_the_first_largest_allowed_logit(path: str) -> None:
    logits = torch.zeros(4, 300)
    logits[0, [290, 140, 13]] = 2.0  # three tiles
    logits[1, [5, 2]] = 3.0
    logits[2, 299] = 1.0
    ids, confidence = sample_tokens(logits, 0, seed=0, forbid=[2])
    assert ids.tolist() == [13, 5, 299, 0]
    assert confidence[3].item() == pytest.approx(1 / 299)


@pytest.mark.parametrize("mode", ["cdf", "gumbel"])
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_rows_without_a_distribution(path: str, temperature: float, mode: str) -> None:
    good = random_logits(1, 300)[0]
    logits = good.repeat(7, 1)
    logits[1, 200] = NAN
    logits[2] = NAN
    logits[3] = -INF
    logits[4, 150] = INF
    logits[5] = -INF
    logits[5, 220] = -1e4
    logits[6, 0] = NAN  # forbidden: not looked at
    ids, confidence = sample_tokens(logits, temperature, seed=6, row_ids=torch.zeros(7).long(), forbid=[0], mode=mode)
    want, probability = sample_tokens(good[None], temperature, seed=6, forbid=[0], mode=mode)
    assert ids.tolist() == [want.item(), 1, 1, 1, 150, 220, want.item()]
    assert confidence.isnan().tolist() == [False, True, True, True, False, False, False]
    assert confidence[[0, 4, 5, 6]].tolist() == [probability.item(), 1.0, 1.0, probability.item()]
    defined = reference.sample_tokens(logits, temperature, seed=6, row_ids=torch.zeros(7).long(), forbid=[0], mode=mode)
    assert torch.equal(defined[0], ids)
    torch.testing.assert_close(defined[1], confidence, rtol=1e-5, atol=0, equal_nan=True)


def test_two_infinities_share_the_mass(path: str) -> None:
    logits = torch.zeros(40, 300)
    logits[:, [20, 290]] = INF
    ids, confidence = sample_tokens(logits, 1.0, seed=0)
    assert set(ids.tolist()) == {20, 290}
    assert confidence.unique().tolist() == [0.5]


def test_forbidden_tokens_are_never_drawn(path: str) -> None:
    """Uniforms closest to 0 and to 1 among two million, and mass only where it is forbidden or next to it."""
    u = reference.uniform(0, torch.arange(2_000_000))
    row_ids = torch.tensor([int(u.argmin()), int(u.argmax())]).repeat(3)
    logits = torch.full((6, 400), -INF)
    logits[0:2, 130:133] = torch.tensor([9e3, 1.0, 9e3])  # neighbours carry e^9000 times the mass
    logits[2:4] = torch.cat([torch.full((130,), 80.0), torch.zeros(140), torch.full((130,), 80.0)])  # whole tiles
    logits[4:6, 5:395] = 0.0  # ends that are -inf, not forbidden
    forbid = [*range(130), *range(270, 400)]
    for temperature in (0.5, 1.0):
        ids, _ = sample_tokens(logits[:2], temperature, seed=0, row_ids=row_ids[:2], forbid=[130, 132])
        assert ids.tolist() == [131, 131]
        ids, _ = sample_tokens(logits[2:4], temperature, seed=0, row_ids=row_ids[2:4], forbid=forbid)
        assert ids.tolist() == [130, 269]
        ids, _ = sample_tokens(logits[4:], temperature, seed=0, row_ids=row_ids[4:])
        assert ids.tolist() == [5, 394]


EDGES = [(0.0, 1, 0.0), (0.75 - 1e-12, 1, 1 - 4e-12 / 3), (0.75, 3, 0.0), (1.0, 3, 1.0)]  # u, index, what is left of u


@pytest.mark.parametrize(("u", "index", "rest"), EDGES)
def test_a_pick_at_the_ends_of_the_unit_interval_has_weight(path: str, u: float, index: int, rest: float) -> None:
    """0 must skip leading zeros; a product rounded up to the total must not fall off the end or onto a zero."""
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).double()
    if path == "plain":
        picked, left = sampling_plain.pick(weights[None], torch.tensor([[u]], dtype=torch.float64))
    else:
        picked, left = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
        _pick_once[(1,)](weights, torch.tensor([u], dtype=torch.float64), picked, left)
    assert picked.item() == index
    assert left.item() == pytest.approx(rest, abs=1e-13)


@triton.jit
def _pick_once(weights, u, picked, left):  # type: ignore[no-untyped-def]
    index, rest = _pick(tl.load(weights + tl.arange(0, 8)), tl.load(u), 8)
    tl.store(picked, index)
    tl.store(left, rest)


def test_uniforms_are_uniform_and_independent() -> None:
    rows = torch.arange(500_000)
    streams = [reference.uniform(1, rows), reference.uniform(2, rows), reference.uniform(1, rows << 32)]
    flat = torch.full((256,), 1 / 256)
    for u in streams:
        assert u.min() >= 0
        assert u.max() < 1
        assert chi_square_p((u * 256).long().bincount(minlength=256), flat) > 1e-3
        pairs = (u[:-1:2] * 16).long() * 16 + (u[1::2] * 16).long()
        assert chi_square_p(pairs.bincount(minlength=256), flat) > 1e-3
    for other in streams[1:]:
        pairs = (streams[0] * 16).long() * 16 + (other * 16).long()
        assert chi_square_p(pairs.bincount(minlength=256), flat) > 1e-3
    low = ((streams[0] * 2.0**53).long() & 255).bincount(minlength=256)
    assert chi_square_p(low, flat) > 1e-3


def test_known_uniforms() -> None:
    """splitmix64 finalisers over (row, seed), worked out with Python integers; saved runs depend on them."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for seed in (0, 1, -1, 2**63, 2**64 + 1, 123456789):
        rows = [0, 1, 2**40 + 17, -5]
        want = [(mix(mix(row % 2**64) ^ mix((seed + 0x9E3779B97F4A7C15) % 2**64)) >> 11) * 2.0**-53 for row in rows]
        assert reference.uniform(seed, torch.tensor(rows)).tolist() == want


def test_seeds_are_taken_modulo_two_to_the_64(path: str) -> None:
    logits = torch.zeros(24, 300)
    a, b, c, d = (sample_tokens(logits, 1.0, seed=s)[0] for s in (-1, 2**64 - 1, 1, 2**64 + 1))
    assert torch.equal(a, b)
    assert torch.equal(c, d)
    assert not torch.equal(a, c)


def test_float64_logits_are_drawn_in_float64() -> None:
    logits = random_logits(3, 200).double()
    logits[:, 7] = logits.amax(-1) + 1e-9  # lost in float32
    logits[:, 3] = logits[:, 7] - 1e-9
    with launch.plain_path(False):
        ids, _ = sample_tokens(logits, 0, seed=0)
    assert ids.tolist() == [7, 7, 7]


def test_no_rows(path: str) -> None:
    ids, confidence = sample_tokens(torch.empty(0, 50), 1.0, seed=0)
    assert ids.shape == confidence.shape == (0,)


class _Sizes(TorchDispatchMode):
    """Records dtype and number of elements of everything allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.seen += [(x.dtype, x.untyped_storage().nbytes() // x.itemsize) for x in [out] if isinstance(x, Tensor)]
        return out


def test_plain_path_is_bounded_in_memory() -> None:
    """Chunks only, and nothing in float64 or int64 as long as the vocabulary: no random number per logit."""
    logits = random_logits(24, 126464, torch.bfloat16)
    with _Sizes() as sizes:
        sampling_plain.sample(logits, 0.3, 0, None, [5], "cdf")
    new = [(dtype, n) for dtype, n in sizes.seen if dtype != torch.bfloat16]
    assert max(n for _, n in new) <= sampling_plain.CHUNK + 126464
    assert max(n for dtype, n in new if dtype in (torch.float64, torch.int64)) <= sampling_plain.TILE * 24
    assert len(new) > 20


def test_custom_op_is_sound(path: str) -> None:
    logits = random_logits(3, 200)
    for row_ids in (None, torch.tensor([4, 5, 6])):
        torch.library.opcheck(torch.ops.dmpo.sample_tokens.default, (logits, 0.7, 3, row_ids, [2], "cdf"))


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


@pytest.mark.parametrize(("change", "error", "name"), BAD)
def test_bad_input_is_refused_by_name(path: str, change: dict, error: type[Exception], name: str) -> None:
    arguments = {"logits": torch.zeros(2, 5), "temperature": 1.0, "seed": 0} | change
    with pytest.raises(error, match=f"^{name}: got"):
        sample_tokens(arguments.pop("logits"), arguments.pop("temperature"), **arguments)
