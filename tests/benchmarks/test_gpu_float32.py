"""If these fail, a changed pass of LLaDA-8B that is wrong counts as right on a GPU, or a right one as wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.gpu.float32_error import in_float32, note_error
from benchmarks.gpu.model_8b import REHEARSED, random_ids, random_model, with_adapters
from benchmarks.gpu.passes_8b import block_pass, canvas_pass
from tests.benchmarks.kept_records import Records

CPU = torch.device("cpu")


@pytest.fixture
def adapted() -> Any:
    return with_adapters(random_model(REHEARSED, CPU, 0), REHEARSED, CPU)


def checked(policy: Any, change: Callable[[], Any], build: Any = canvas_pass) -> dict[str, Any]:
    """The check of a pass after `change`, which may change the policy."""
    ids, records = random_ids(REHEARSED, REHEARSED.rows, REHEARSED.canvas, CPU), Records()
    job, exact = build(policy, REHEARSED, ids), in_float32(build, policy, REHEARSED, ids)
    with torch.no_grad():
        eager = job()
        change()
        note_error(records, "a pass", job(), eager, exact)
    (record,) = records
    return record


@pytest.mark.parametrize("build", [canvas_pass, block_pass])
def test_the_eager_pass_is_as_near_to_float32_as_itself(adapted: Any, build: Any) -> None:
    record = checked(adapted, lambda: None, torch.no_grad()(build))
    assert record["ok"]
    assert 1e-4 < record["error"] == record["eager_error"] < 0.1, "what bfloat16 leaves"
    assert {p.dtype for name, p in adapted.named_parameters() if "lora" not in name} == {torch.bfloat16}


def test_merged_adapters_are_right_and_a_wrong_scale_is_found(adapted: Any) -> None:
    assert checked(adapted, adapted.merge_adapter)["ok"]
    adapted.unmerge_adapter()

    def merge_half() -> None:
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.5)
        adapted.merge_adapter()

    assert checked(adapted, merge_half)["ok"] is False


def test_a_fault_beyond_rounding_is_found(adapted: Any) -> None:
    def spoil() -> None:
        adapted.get_base_model().model.norm.weight.mul_(1.02)

    assert checked(adapted, spoil)["ok"] is False
