"""If these fail, views are not what the ELBO assumes: empty ones, tokens covered twice, draws tied to the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dmpo.rollouts.masking import completion_mask, sample_views, views_of
from tests.gradient_problems import config


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**40), st.data())
def test_views_are_well_formed(rows: int, length: int, pairs: int, key: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    eligible = torch.arange(length) < torch.tensor(lengths).unsqueeze(1)
    views = sample_views(eligible, 2 * pairs, key=key).view(2 * pairs, rows, length)
    assert views.any(-1).all(), "a view masks nothing"
    assert not (views & ~eligible).any(), "a view masks a position that does not count"
    for first, second in zip(views[::2], views[1::2], strict=True):
        many = eligible.sum(-1) > 1
        assert torch.equal((first ^ second)[many], eligible[many]), "a pair does not cover every token once"
        assert torch.equal(first[~many], eligible[~many])


def test_views_depend_on_row_id_alone() -> None:
    eligible = torch.ones(6, 10, dtype=torch.bool)
    ids = torch.tensor([3, 8, 1, 0, 9, 4])
    whole = sample_views(eligible, 4, key=7, row_ids=ids).view(4, 6, 10)
    alone = sample_views(eligible[:2], 4, key=7, row_ids=ids[2:4]).view(4, 2, 10)
    assert torch.equal(whole[:, 2:4], alone)
    assert not torch.equal(whole, sample_views(eligible, 4, key=8, row_ids=ids).view(4, 6, 10))


def test_masking_rate_is_uniform() -> None:
    """m of an unpaired view with rate U(0, 1) is uniform on 0..L, except that an empty view masks one. Chi-square."""
    length, count = 7, 20_000
    views = sample_views(torch.ones(count, length, dtype=torch.bool), 1, key=1, rate_range=(0.0, 1.0), antithetic=False)
    observed = torch.bincount(views.sum(-1), minlength=length + 1)[1:].numpy()
    expected = [2 * count / (length + 1)] + [count / (length + 1)] * (length - 1)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_each_position_is_as_likely() -> None:
    length, count = 5, 20_000
    views = sample_views(torch.ones(count, length, dtype=torch.bool), 2, key=2)[:count]
    share = views.double().mean(0)
    # λ has mean 1/2; five standard errors of a mean of 20,000 draws
    assert (share - 0.5).abs().max() < 5 * 0.5 / count**0.5


def test_rate_limits_hold() -> None:
    views = sample_views(torch.ones(500, 400, dtype=torch.bool), 1, key=3, rate_range=(0.4, 0.6), antithetic=False)
    share = views.double().mean(-1)
    slack = 5 * (0.25 / 400) ** 0.5
    assert share.min() > 0.4 - slack
    assert share.max() < 0.6 + slack


@pytest.mark.parametrize("antithetic", [True, False])
def test_views_of_a_config_have_its_rates_and_its_pairs(antithetic: bool) -> None:
    eligible, ids = torch.ones(5, 9, dtype=torch.bool), torch.tensor([8, 3, 0, 40, 7])
    options = config(mask_rate_min=0.3, mask_rate_max=0.5, antithetic=antithetic)
    expected = sample_views(eligible, 6, key=11, row_ids=ids, rate_range=(0.3, 0.5), antithetic=antithetic)
    assert torch.equal(views_of(options, eligible, ids, replicates=6, key=11).masks, expected)
    others = views_of(config(antithetic=antithetic), eligible, ids, replicates=6, key=11)
    assert not torch.equal(others.masks, expected)


def test_completion_mask_ends_with_the_first_eos() -> None:
    tokens = torch.tensor([[5, 0, 5, 0], [5, 5, 5, 5], [0, 0, 0, 0]])
    assert completion_mask(tokens, [0]).tolist() == [
        [True, True, False, False],
        [True] * 4,
        [True, False, False, False],
    ]
    assert completion_mask(tokens, []).all()
    several = completion_mask(torch.tensor([[5, 7, 0, 7], [5, 0, 7, 5], [5, 5, 5, 7]]), [0, 7])
    assert several.sum(-1).tolist() == [2, 2, 4]


def test_bad_input_is_named() -> None:
    eligible = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="replicates"):
        sample_views(eligible, 3, key=0)
    with pytest.raises(ValueError, match="rate_range"):
        sample_views(eligible, 2, key=0, rate_range=(0.9, 0.1))
    with pytest.raises(ValueError, match="eligible"):
        sample_views(eligible & False, 2, key=0)
