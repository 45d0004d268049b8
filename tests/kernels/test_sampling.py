"""If these fail, decoders draw from the wrong distribution, report a wrong confidence, or depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from dmpo.kernels import launch, reference, sample_tokens
from dmpo.kernels.sampling import plain as sampling_plain
from dmpo.kernels.sampling import triton_kernels as sampling_triton
from tests.kernels.kernel_oracle import both_paths
from tests.kernels.sampling_oracle import (
    INF,
    NAN,
    assert_confidence_is_as_exact_as_torch,
    assert_same_draw,
    assert_same_rows,
    chi_square_p,
    random_logits,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")  # NaN and inf on purpose, through numpy
triton_path = pytest.mark.parametrize("path", ["triton"], indirect=True)
small_tiles = pytest.mark.usefixtures("_small_tiles")


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128, so that small rows have several."""
    monkeypatch.setattr(sampling_triton, "launch_config", lambda *_: launch.LaunchConfig(128, 1))
    monkeypatch.setattr(sampling_plain, "TILE", 128)


@pytest.fixture
def plain(device: torch.device) -> Iterator[None]:
    with launch.plain_path():
        yield


@both_paths
@small_tiles
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


@both_paths
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("vocab", [126464, 126463])  # LLaDA's, and one no vector width divides
def test_full_vocabulary(path: str, vocab: int, temperature: float) -> None:
    logits = random_logits(4, vocab, torch.bfloat16)
    row_ids = torch.tensor([3, 1 << 40, 0, 9])
    ids, confidence = sample_tokens(logits, temperature, seed=1, row_ids=row_ids, forbid=[126336])
    assert_same_draw(ids, logits, temperature, 1, row_ids, [126336])
    assert_confidence_is_as_exact_as_torch(ids, confidence, logits, [126336])


@both_paths
@small_tiles
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


@triton_path
@pytest.mark.parametrize("mode", ["cdf", "gumbel"])
def test_chi_square_of_the_kernels(path: str, mode: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_triton, "launch_config", lambda *_: launch.LaunchConfig(64, 1))
    logits = torch.full((1, 100), -INF)
    logits[0, ::9] = random_logits(1, 12, scale=1.0)[0]  # on both sides of the tiles' border
    rows = 250 if device.type == "cpu" else 1_000_000
    ids, _ = sample_tokens(logits.expand(rows, -1), 1.5, seed=13, forbid=[9], mode=mode)
    logits[:, 9] = -INF
    assert chi_square_p(ids.bincount(minlength=100), (logits[0].double() / 1.5).softmax(-1)) > 1e-3


@both_paths
@small_tiles
def test_gumbel_kernel_draws_what_its_definition_draws(path: str) -> None:
    logits = random_logits(16, 300, torch.float16)
    for temperature in (0.0, 0.2, 1.5):
        ids, confidence = sample_tokens(logits, temperature, seed=5, forbid=[7], mode="gumbel")
        want, probability = reference.sample_tokens(logits.double(), temperature, seed=5, forbid=[7], mode="gumbel")
        assert torch.equal(ids, want)
        assert (confidence - probability).abs().max() < 1e-6


@both_paths
@small_tiles
@pytest.mark.parametrize("mode", ["cdf", "gumbel"])
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_draws_do_not_depend_on_the_batch(path: str, temperature: float, mode: str, device: torch.device) -> None:
    logits = random_logits(9, 500)
    row_ids = torch.arange(9) * 3 + 2
    same_sums = path == "triton" or device.type == "cpu"  # PyTorch adds up in another order for other rows on a GPU
    compare = partial(assert_same_rows, temperature=temperature, seed=2, mode=mode, same_sums=same_sums)
    whole = sample_tokens(logits, temperature, seed=2, row_ids=row_ids, mode=mode)
    for sizes in ([1] * 9, [4, 5]):
        parts = [
            sample_tokens(x, temperature, seed=2, row_ids=r, mode=mode)
            for x, r in zip(logits.split(sizes), row_ids.split(sizes), strict=True)
        ]
        ids, confidence = map(torch.cat, zip(*parts, strict=True))
        compare((ids, confidence), whole, logits, row_ids=row_ids)
    order = torch.tensor([5, 0, 8, 3, 1, 2, 7, 6, 4])
    shuffled = sample_tokens(logits[order], temperature, seed=2, row_ids=row_ids[order], mode=mode)
    compare(shuffled, (whole[0][order], whole[1][order]), logits[order], row_ids=row_ids[order])


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


@both_paths
@small_tiles
def test_row_ids_default_to_the_row_number_and_any_layout_is_read(path: str, device: torch.device) -> None:
    """A stride that 16 does not divide gives other code on a GPU, which adds up in another order. The same tensor gives
    the same bits everywhere."""
    logits, row_ids = random_logits(6, 400), torch.arange(6)
    drawn = sample_tokens(logits, 1.0, seed=9, row_ids=row_ids)
    before = logits.clone()
    padded = torch.full((6, 500), 50.0)
    padded[:, :400] = logits
    for same in (logits, padded[:, :400], logits.t().contiguous().t(), torch.stack([logits, logits], 1)[:, 1]):
        again = sample_tokens(same, 1.0, seed=9)
        same_sums = device.type == "cpu" or same is logits
        assert_same_rows(again, drawn, logits, 1.0, 9, row_ids, same_sums=same_sums)
    sample_tokens(logits, 0.3, seed=9, forbid=[1])
    assert torch.equal(logits, before)


@both_paths
@small_tiles
def test_temperature_zero_takes_the_first_largest_allowed_logit(path: str) -> None:
    logits = torch.zeros(4, 300)
    logits[0, [290, 140, 13]] = 2.0  # three tiles
    logits[1, [5, 2]] = 3.0
    logits[2, 299] = 1.0
    ids, confidence = sample_tokens(logits, 0, seed=0, forbid=[2])
    assert ids.tolist() == [13, 5, 299, 0]
    assert confidence[3].item() == pytest.approx(1 / 299)


@both_paths
@small_tiles
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


@both_paths
@small_tiles
def test_two_infinities_share_the_mass(path: str) -> None:
    logits = torch.zeros(40, 300)
    logits[:, [20, 290]] = INF
    ids, confidence = sample_tokens(logits, 1.0, seed=0)
    assert set(ids.tolist()) == {20, 290}
    assert confidence.unique().tolist() == [0.5]


@both_paths
@small_tiles
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


@triton_path
def test_float64_logits_are_drawn_in_float64(path: str) -> None:
    logits = random_logits(3, 200).double()
    logits[:, 7] = logits.amax(-1) + 1e-9  # lost in float32
    logits[:, 3] = logits[:, 7] - 1e-9
    ids, _ = sample_tokens(logits, 0, seed=0)
    assert ids.tolist() == [7, 7, 7]
