"""If these fail, `cache` is not independent of the policy, or a combination that cannot work is not refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from dmpo import generate
from dmpo.config.decoding import DecodingOptions
from tests import tiny_models
from tests.tiny_models import tokens

pytestmark = pytest.mark.usefixtures("device")
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6, "temperature": 1.0}
# Rules that come to the same where no probability is 1, and each candidate is above 0.
ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"decoder": "parallel", "threshold": 0.3}, {"decoder": "prefix_cache", "threshold": 0.3}),
    ({"decoder": "topk"}, {"decoder": "prefix_cache"}),
    ({"decoder": "risk", "threshold": 1.0}, {"decoder": "prefix_cache"}),
    ({"decoder": "hierarchy", "threshold": 0.3, "low_threshold": 0.3}, {"decoder": "prefix_cache", "threshold": 0.3}),
    ({"decoder": "entropy", "entropy_bound": 0.0}, {"decoder": "entropy", "entropy_bound": 1e-12}),
    (
        {"decoder": "tests.own_names:parallel", "threshold": 0.3},
        {"decoder": "prefix_cache", "threshold": 0.3},
    ),
]


def tiny(shift: int) -> Any:
    model: Any = tiny_models.tiny(init_std=0.7)
    model.prediction_shift = shift
    return model


@pytest.mark.parametrize("rules", ALIKE, ids=lambda rules: rules[0]["decoder"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_rule_is_the_same_with_a_cache(rules: tuple[dict[str, Any], ...], cache: str, shift: int) -> None:
    model, prompts = tiny(shift), tokens(5, 6)
    rule, same = rules[0], dict(rules[1])
    same |= {"decoder": f"{cache}_cache"} if same["decoder"] == "prefix_cache" else {"cache": cache}
    first, second = (generate(model, prompts, **SHAPE | options) for options in (rule | {"cache": cache}, same))
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.order, second.order)
    assert (first.forwards, first.positions) == (second.forwards, second.positions)
    assert first.positions < first.row_forwards * (6 + SHAPE["gen_length"])


def test_another_cache_is_another_approximation() -> None:
    """Else the option is not read."""
    model, prompts = tiny(0), tokens(8, 6)
    options = SHAPE | {"decoder": "topk"}
    made = [generate(model, prompts, cache=cache, **options).log_probs for cache in (None, "none", "prefix", "dual")]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])
    assert not torch.equal(made[2], made[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "wino", "cache": "prefix"}, "cache must be null or none for 'wino', got 'prefix': its shadow"),
        ({"decoder": "random_order", "cache": "dual"}, "cache must be null or none for 'random_order', got 'dual'"),
        (
            {"decoder": "prefix_cache", "cache": "dual"},
            "cache must be null or prefix for 'prefix_cache', which is decoder parallel with cache=prefix; got 'dual'",
        ),
        ({"decoder": "dual_cache", "cache": "none"}, "cache must be null or dual for 'dual_cache'"),
        ({"cache": "all"}, "unknown cache 'all', choose one of none, prefix, dual"),
    ],
)
def test_a_cache_that_a_decoder_cannot_take_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DecodingOptions(**options)
