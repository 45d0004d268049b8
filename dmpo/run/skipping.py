"""Steps whose loss or gradient is not finite are skipped and counted. Too many in a row stop the run, with evidence."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..models.tokenizer import decode_text
from ..objectives.gradient import group_weights
from ..rollouts.batch import Batch
from ..storage.json_lines import finite_or_none
from ..storage.whole_files import is_write_failure

log = logging.getLogger("dmpo")


class SkippedSteps:
    """How many steps were skipped: in the whole run, and in a row; and how many had nothing to learn from (`idle`).

    Loss and gradient norm are the same on every rank, so all ranks decide alike.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.total, self.in_row, self.idle = limit, 0, 0, 0

    def skip(self, loss: float, norm: float, *, idle: bool = False) -> bool:
        """Whether a step with this loss and gradient norm must be skipped; counts it.

        An idle step is counted apart. It neither ends nor lengthens a row of steps that are not finite.
        """
        self.idle += idle
        if idle:
            return False
        bad = not (math.isfinite(loss) and math.isfinite(norm))
        self.total += bad
        self.in_row = self.in_row + 1 if bad else 0
        return bad

    @property
    def too_many(self) -> bool:
        return self.in_row >= self.limit

    def error(self, step: int, *, saved: int, folder: Path) -> FloatingPointError:
        """The error that ends a run after `step`: what happened, the last step that is saved, the batch in `folder`."""
        return FloatingPointError(
            f"the last {self.in_row} steps had a loss or gradient that is not finite; the run is saved at step {saved}"
            f", and the batch of step {step} is in {folder}; to go on, raise max_skipped_steps"
        )

    def state(self) -> dict[str, int]:
        """The counts, as a checkpoint stores them."""
        return {"total": self.total, "in_row": self.in_row, "idle": self.idle}

    def load_state(self, state: dict[str, int]) -> None:
        """The inverse of `state`."""
        self.total, self.in_row = state["total"], state["in_row"]
        self.idle = state.get("idle", 0)  # a checkpoint of an earlier version of dmpo has none


def write_evidence(
    folder: Path, rank: int, batch: Batch, tokenizer: PreTrainedTokenizerBase, config: DMPOConfig
) -> None:
    """Write this rank's rows of a batch: rank-R.safetensors with all tensors, rank-R.json with a line of each row.

    A line has prompt, completion, row_id, rewards, log_prob_ref, log_prob_cur and weights. Numbers that are not finite
    are null. If the weights cannot be computed, a warning says so, and the lines have none. If the disk cannot be
    written, a warning says so, too.
    """
    rows = batch.row_ids % batch.rewards.numel()
    numbers = {name: getattr(batch, name).flatten()[rows] for name in ("rewards", "log_prob_ref", "log_prob_cur")}
    try:
        numbers["weights"] = group_weights(batch, config)[0].positive.flatten()[rows]
    except ValueError as error:
        log.warning("the weights of the batch cannot be computed: %s", error)
    completions = batch.completions
    texts = zip(*(decode_text(tokenizer, ids) for ids in (completions.prompt_ids, completions.tokens)), strict=True)
    lines: list[dict[str, Any]] = [
        {"prompt": prompt, "completion": completion, "row_id": int(batch.row_ids[i])}
        | {name: finite_or_none(float(values[i])) for name, values in numbers.items()}
        for i, (prompt, completion) in enumerate(texts)
    ]
    write_lines(folder, rank, lines, batch.local() | numbers)


def write_lines(
    folder: Path, rank: int, lines: list[dict[str, Any]], tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Write rank-R.json, and rank-R.safetensors of tensors. If the disk cannot be written, a warning says so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if tensors:
            copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
            save_file(copies, folder / f"rank-{rank}.safetensors")
        (folder / f"rank-{rank}.json").write_text(json.dumps(lines, indent=1, ensure_ascii=False), encoding="utf-8")
    except Exception as error:
        if not is_write_failure(error):
            raise
        log.warning("the batch could not be written to %s: %s", folder, error)
