"""`DMPOTrainer` on the pretend device: two steps, saved, a third after resuming; beside three on the CPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

import dmpo.trainer
from dmpo.config import DMPOConfig
from dmpo.kernels import launch
from dmpo.rollouts.policy import make_policy
from tests import small_runs
from tests.pretend_cuda.accelerator import on_cpu, on_pretend_cuda
from tests.pretend_cuda.counts import counting
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.tensor import module_on_device

SMALL: dict[str, Any] = {
    "num_prompts": 2,
    "num_generations": 2,
    "eval_prompts": 1,
    "eval_steps": 0,
    "steps": 1,
    "save_steps": 1,
    "gradient_steps": 1,
    "learning_rate": 1e-2,
}
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {"lora_r": 2, "early_stop": True},
    "full, refreshed reference, buffer": {
        "reference_refresh_steps": 2,
        "buffer_rounds": 2,
        "buffer_min_ess": 0.01,
    },
}
COMPARED = ("loss", "grad_norm", "reward", "ess", "greedy_accuracy", "sampled_accuracy")


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """metrics: of the device and of the CPU, by step. accuracies: those of the two summaries."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(dmpo.trainer, "plot_run"):
        host, device = Path(folder) / "host", Path(folder) / "device"
        with launch.plain_path(True), on_cpu():
            wanted = small_runs.trainer(_settings(host, case, max_steps=3)).train()
        with (
            pretend_cuda(),
            on_pretend_cuda(),
            mock.patch.object(dmpo.trainer, "make_policy", _policy_on_device),
            counting() as counted,
        ):
            small_runs.trainer(_settings(device, case, max_steps=2)).train()
            found = small_runs.trainer(_settings(device, case, max_steps=3, resume=True)).train()
        return {
            "metrics": [_metrics(device), _metrics(host)],
            "accuracies": [{k: v for k, v in x.items() if "accuracy" in k} for x in (found, wanted)],
            "device": found["device"],
            "checkpoints": sorted(path.name for path in (device / "checkpoints").iterdir()),
            **counted.record(),
        }


def _settings(folder: Path, case: dict[str, Any], **changes: Any) -> DMPOConfig:
    return small_runs.settings(folder, **(SMALL | case | changes))


def _policy_on_device(config: DMPOConfig, device: Any, model: nn.Module | None = None) -> nn.Module:
    return module_on_device(make_policy(config, "cpu", model))


def _metrics(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("step", *COMPARED) if name in row} for row in rows]
