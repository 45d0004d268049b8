"""If these fail, a policy of the user's own decodes other than the same policy of the package, or its faults hide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dmpo import generate
from tests import tiny_models
from tests.tiny_models import tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6, "temperature": 1.0}


def decoded(name: str, **options: Any) -> Any:
    model = tiny_models.tiny(init_std=0.7)
    return generate(model, tokens(3, 6), decoder=name, **SHAPE | options)


@pytest.mark.parametrize(
    ("name", "rule"), [("topk", {}), ("parallel", {"threshold": 0.4}), ("parallel", {"factor": 1.0})]
)
@pytest.mark.parametrize("early_stop", [False, True])
def test_a_policy_of_ones_own_decodes_as_the_same_policy_of_the_package(
    name: str, rule: dict[str, Any], early_stop: bool
) -> None:
    own, shipped = (decoded(kind, early_stop=early_stop, **rule) for kind in (f"tests.own_names:{name}", name))
    for part in ("sequences", "log_probs", "order", "steps"):
        assert torch.equal(getattr(own, part), getattr(shipped, part)), part
    assert own.forwards == shipped.forwards


def test_a_policy_may_take_tokens_back() -> None:
    made = decoded("tests.own_names:Fickle")
    assert (made.sequences != MASK).all()
    assert (made.order >= 0).all()
    assert made.steps.tolist() == [9, 9, 9], "of a block's four tokens, 1, 2 and 1 stay in a step"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Policy", "decoder 'no_such_module:Policy' cannot be imported"),
        ("tests.own_names:Absent", "decoder 'tests.own_names:Absent' cannot be imported"),
        ("tests.own_names:LOSS", "must be a function or a class, got Objective"),
        ("tests.own_names:broken", "cannot be made of the decoding options: 'policy'"),
        ("tests.own_names:nothing", "must return a policy with `revokes`, `count` and a call .*, got NoneType"),
        ("tests.own_names:Stuck", "left 4 masks in a block of 4 after 4 steps: a policy must fill a block"),
        ("tests.own_names:Liar", "left -2 masks in a block of 4 after 2 steps"),
    ],
)
def test_a_fault_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(name)
