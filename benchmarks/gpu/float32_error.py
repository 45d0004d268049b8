"""How far is a pass from a float32 copy of the same model, and is that no further than the eager pass is?

Two right ways to calculate a bfloat16 pass differ from each other as much as they differ from float32: at 32 random
layers by some percent. So a changed pass is judged by its own distance from float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.gpu.attempts import release
from benchmarks.gpu.model_8b import Sizes
from benchmarks.gpu.passes_8b import Pass
from benchmarks.gpu.records import Note

CHECKED_ROWS = 4  # of a batch, whose rows do not depend on each other
ALLOWED = 1.25  # times the eager pass' own error: another order of sums rounds differently, and no worse


@torch.no_grad()
def in_float32(
    build: Callable[[nn.Module, Sizes, Tensor], Pass], policy: nn.Module, sizes: Sizes, ids: Tensor
) -> Tensor:
    """Hidden states of the first `CHECKED_ROWS` rows by a float32 copy of the policy, which is made and freed here.

    build: `canvas_pass` or `block_pass`. ids: int64 [rows, canvas].
    """
    wide = copy.deepcopy(policy).float().eval()
    hidden = build(wide, sizes, ids[:CHECKED_ROWS])()
    del wide
    release(ids.device)
    return hidden


def note_error(note: Note, name: str, changed: Tensor, eager: Tensor, exact: Tensor) -> None:
    """Notes whether the changed pass is about as near to `exact`, from `in_float32`, as the eager pass."""
    error, eager_error = (relative_error(hidden[: len(exact)], exact) for hidden in (changed, eager))
    note(f"{name}, beside float32", ok=error <= ALLOWED * eager_error, error=error, eager_error=eager_error)


def relative_error(hidden: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of `exact`."""
    return float((hidden.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-30))
