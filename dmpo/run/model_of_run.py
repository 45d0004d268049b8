"""What a script does with the model of a run, before, during and after the training: evaluate, save and upload it.

With `resume` the model is that of the newest checkpoint, so a script may upload a run that ended in another process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from huggingface_hub import ModelCard
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.run import RunConfig
from .callbacks import Callbacks
from .folder import RunFolder
from .hub import push_to_hub
from .model_card import model_card
from .model_copy import model_name, write_model


class HeldOut(Protocol):
    """What a run measures on held-out rows, such as `Evaluation`."""

    def lines(self, step: int) -> list[dict[str, Any]]:
        """Lines of held_out.jsonl after a gradient step."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers for metrics.jsonl and the trackers."""
        ...

    def facts(self) -> dict[str, Any]:
        """`metrics` with their intervals, and `rows`, the number of rows on all ranks."""
        ...

    def counts(self) -> dict[str, Any]:
        """What a checkpoint stores, as JSON values."""
        ...


class ModelOfRun:
    """The model of a run. All ranks make each call together.

    Attributes:
        model: the result of `accelerator.prepare`.
        step: the gradient steps of the run so far.
        summary: the content of summary.json; empty before the run has ended.
        objects: the names of the objects that a script gave in place of names in the config.
    """

    accelerator: Accelerator
    config: RunConfig
    run: RunFolder
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    callbacks: Callbacks
    objects: dict[str, str]
    step: int
    summary: dict[str, Any]

    def evaluate(self, split: str = "test") -> dict[str, Any]:
        """Decode `eval_prompts` rows of a split with the policy as it is. All ranks call it together, at any time.

        Returns, on every rank: sampled_accuracy and greedy_accuracy (or sampled_reward and greedy_reward), each with
        its 95 % interval, and rows; of supervised fine-tuning the loss, too.
        """
        self._restore()
        evaluation = self._evaluate(split)
        self.callbacks.evaluated(evaluation.metrics())
        return evaluation.facts()

    def save_model(self, folder: str | Path | None = None) -> Path:
        """Write the trained model as a plain checkpoint, or its LoRA adapter, with the tokenizer. Returns the folder.

        All ranks call it together, at any time. `dmpo.load_model` (or `dmpo.load_adapter`) reads the folder.

        Args:
            folder: a new folder, or one that holds a saved model, which is replaced. None: `output_dir/model`, or
                `output_dir/adapter`.

        Raises:
            ValueError: the folder holds other files.
        """
        self._restore()
        path = Path(folder) if folder is not None else self.run.path / model_name(self.model)
        write_model(self.model, self.tokenizer, path, main=self.accelerator.is_main_process)
        return path

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_model` writes, with a model card of this run, to the Hugging Face hub. Returns the address.

        All ranks call it together, at any time. See `dmpo.run.hub.push_to_hub` for the options and the errors.
        """

        self._restore()

        def card(whole_id: str) -> ModelCard:
            is_adapter = model_name(self.model) == "adapter"
            of_run: dict[str, Any] = {"steps": self.step, "objects": self.objects}
            return model_card(self.config, self._summary(), repo_id=whole_id, is_adapter=is_adapter, **of_run)

        return push_to_hub(self.accelerator, self.model, self.tokenizer, card, repo_id, **options)

    def _summary(self) -> dict[str, Any]:
        """The content of summary.json if the run has ended, also in another process; else empty."""
        path = self.run.path / "summary.json"
        if self.summary or not path.exists():
            return self.summary
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary if summary["steps"] == self.step else {}

    def _evaluate(self, split: str) -> HeldOut:
        raise NotImplementedError

    def _restore(self) -> None:
        raise NotImplementedError
