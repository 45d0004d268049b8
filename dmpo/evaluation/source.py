"""The weights of an evaluation: their folders, a digest of their files, and loading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..config.weights import WeightKeys
from ..models.adapters import CONFIG, adapter_base, load_adapter
from ..models.files import checkpoint_folder, read_json
from ..models.loading import load_model
from ..models.merge import trained_folder
from ..storage.checkpoints import CHECKPOINTS, best_step, list_checkpoints, run_config, step_of
from ..storage.whole_files import file_digest
from .keys import EvalConfig

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt")
_WEIGHTS = ("config.json", CONFIG, "*.safetensors")


@dataclass(frozen=True)
class Source:
    """Folders of a base model, of an adapter on it if there is one, and of the tokenizer."""

    base: Path
    adapter: Path | None
    tokenizer: Path

    def identity(self) -> dict[str, str]:
        """blake2b of every file on which the model's output depends; reads all weights once."""
        folders = [("base", self.base, _WEIGHTS), ("tokenizer", self.tokenizer, _TOKENIZER)]
        if self.adapter:
            folders.append(("adapter", self.adapter, _WEIGHTS))
        return {
            f"{what}/{file.name}": file_digest(file)
            for what, folder, patterns in folders
            for pattern in patterns
            for file in sorted(folder.glob(pattern))
        }

    def load(self, config: WeightKeys, device: torch.device) -> nn.Module:
        """The model in eval mode. Raises as `dmpo.load_model` and `dmpo.load_adapter` do."""
        model = load_model(
            self.base,
            dtype=config.dtype,
            device=device,
            attn_implementation=config.attn_implementation,
            mask_id=config.mask_id,
            eos_id=config.eos_id,
            load_in_4bit=config.load_in_4bit,
        )
        return model if self.adapter is None else load_adapter(model, self.adapter)


def find_source(model: str, config: WeightKeys) -> Source:
    """The folders that `model`, and the `adapter` and `checkpoint` of a config, name.

    Raises:
        ValueError: a folder or Hub id does not exist; the run has no such checkpoint; `adapter` is given, but `model`
            is an adapter itself; there is no tokenizer.
    """
    trained = _trained(model, config.checkpoint)
    if (trained / CONFIG).is_file():
        if config.adapter is not None:
            raise ValueError(f"adapter must be left out, got {config.adapter}: model {model} is an adapter itself")
        adapter: Path | None = trained
        base = checkpoint_folder(adapter_base(read_json(trained / CONFIG)))
    else:
        base, adapter = trained, None
        if config.adapter is not None:
            adapter = trained_folder(config.adapter)
            if not (adapter / CONFIG).is_file():
                raise ValueError(f"adapter {config.adapter} holds no {CONFIG}: give a whole model as model")
    for folder in (base, adapter):
        if folder and ((folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()):
            return Source(base, adapter, folder)
    raise ValueError(f"{base} holds no tokenizer: neither tokenizer.json nor tokenizer_config.json")


def trained_options(config: EvalConfig) -> dict[str, dict[str, Any]]:
    """`task_options`, and for the task of a run the options with which it was trained; `task_options` has precedence.
    `adapter`, or else `model`, names the run: its folder, or a folder in its checkpoints.

    So evaluation uses the same prompt template as training.

    Raises:
        ValueError: the run's config.yaml cannot be read.
    """
    for named in (config.adapter, config.model):
        path = None if named is None else run_config(Path(named).expanduser())
        if path is not None:
            try:
                run = yaml.safe_load(path.read_text(encoding="utf-8"))
                task, trained = run["task"], dict(run["task_options"])
                return config.task_options | {task: trained | config.task_options.get(task, {})}
            except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no run's config: {type(error).__name__}: {error}") from error
    return config.task_options


def _trained(model: str, checkpoint: str) -> Path:
    folder = checkpoint_folder(model)
    root = folder / CHECKPOINTS
    if checkpoint == "newest":
        return trained_folder(model)
    if not root.is_dir():
        raise ValueError(
            f"checkpoint {checkpoint!r} needs the folder of a run as model, got {model}: leave checkpoint out"
        )
    checkpoints = {step_of(path): path for path in list_checkpoints(root)}
    if checkpoint == "best":
        step = best_step(folder, checkpoints)
        if step is None:
            raise ValueError(
                f"checkpoint 'best' needs a validation accuracy of a kept checkpoint in {folder / 'metrics.jsonl'}; "
                f"kept are {', '.join(path.name for path in checkpoints.values()) or 'none'}"
            )
        return trained_folder(checkpoints[step])
    chosen = root / checkpoint
    if chosen not in checkpoints.values():
        names = ", ".join(["newest", "best", *(path.name for path in checkpoints.values())])
        raise ValueError(f"checkpoint must be one of {names}, got {checkpoint!r}")
    return trained_folder(chosen)
