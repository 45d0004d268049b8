"""A training micro-batch of LLaDA-8B with LoRA; and its memory and a rollout's beside what `dmpo plan` says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.attempts import peak_gb
from benchmarks.gpu.model_8b import Sizes, random_ids
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.steps import measure_steps
from benchmarks.gpu.timing import measure
from dmpo.config.decoding import Decoder
from dmpo.kernels import linear_weighted_ce
from dmpo.models.masked_lm import unwrap
from dmpo.planning.ledger import CONTEXT
from dmpo.planning.plan import GB, plan
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import apply_head_to_views

CLOSE = 0.1  # how far the plan may be off
ROLLOUT: Decoder = "dual_cache"


def update(setting: GpuSetting, note: Note, sizes: Sizes, policy: nn.Module) -> torch.optim.Optimizer:
    """Notes the time of a micro-batch and the peak of a gradient step of two; its optimizer, whose moments exist."""
    device = setting.device
    views = random_views(sizes, device)
    micro_batch = micro_batch_of(sizes, policy, views)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], 1e-6)

    def step() -> None:
        micro_batch()
        micro_batch()
        optimizer.step()
        optimizer.zero_grad()

    policy.train()
    note_micro_batch(setting, note, sizes, micro_batch, views.live, "eager")
    step()
    _note_memory(setting, note, sizes, policy, "update", step)
    policy.eval()
    return optimizer


def note_micro_batch(
    setting: GpuSetting, note: Note, sizes: Sizes, micro_batch: Callable[[], Any], live: int, layers: str
) -> None:
    """layers: eager or compiled."""
    timing = measure(setting.device, micro_batch, repeats=3, warm=1)
    compiled = ", layers compiled" if layers == "compiled" else ""
    note(
        f"micro-batch of {sizes.views} x {sizes.canvas}, forward and backward{compiled}",
        views=sizes.views,
        width=sizes.canvas,
        live=live,
        layers=layers,
        device_ms=timing.device_seconds * 1e3,
        host_ms=timing.host_seconds * 1e3,
    )


@dataclass(frozen=True)
class Views:
    """Views of completions, half of whose tokens are masked: mask bool [N, L], weights float32 [N], not negative."""

    rows: Completions
    mask: Tensor
    weights: Tensor

    @property
    def live(self) -> int:
        return int(self.mask.sum())


def random_views(sizes: Sizes, device: torch.device) -> Views:
    """`sizes.views` of them."""
    ids = random_ids(sizes, sizes.views, sizes.canvas, device)
    prompts, tokens = ids[:, : sizes.prompt], ids[:, sizes.prompt :]
    rows = Completions(prompts, torch.ones_like(prompts).bool(), tokens, torch.ones_like(tokens).bool())
    mask = torch.rand(tokens.shape, device=device) < 0.5
    mask[:, 0] = True
    return Views(rows, mask, torch.rand(sizes.views, device=device))


def micro_batch_of(sizes: Sizes, policy: nn.Module, views: Views) -> Callable[[], Tensor]:
    """The job of one forward and backward of these views, as an update makes it; it returns the loss."""

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_weighted_ce(hidden, weight, views.rows.tokens, views.mask, views.weights, bias=bias)[0]

    def job() -> Tensor:
        found = apply_head_to_views(policy, views.rows, views.mask, sizes.mask_id, loss)
        found.backward()
        return found.detach()

    return job


def rollout_memory(setting: GpuSetting, note: Note, sizes: Sizes, policy: nn.Module) -> None:
    """Notes the peak of two steps that keep keys and values, the optimizer's moments beside them."""
    prompts = random_ids(sizes, sizes.rows, sizes.prompt, setting.device)
    options: dict[str, Any] = {"decoder": ROLLOUT, "gen_length": sizes.completion, "block_length": sizes.block}
    options |= {"steps": sizes.completion // 2, "temperature": 0.2}
    _note_memory(setting, note, sizes, policy, "rollout", lambda: measure_steps(policy, prompts, 1, **options))


def planned_gb(sizes: Sizes, model_config: Any, phase: str) -> float:
    """The GB of tensors at the peak of a phase by `dmpo plan`, without the CUDA context, which the plan adds."""
    planned = plan(replace(sizes.config(), decoder=ROLLOUT), model_config)
    return (planned.peak(phase) - CONTEXT["cuda"]) / GB


def _note_memory(
    setting: GpuSetting, note: Note, sizes: Sizes, policy: nn.Module, phase: str, job: Callable[[], Any]
) -> None:
    peak, planned = peak_gb(setting.device, job), planned_gb(sizes, unwrap(policy).config, phase)
    close = None if peak is None else abs(peak / planned - 1) <= CLOSE
    note(f"memory of {phase}, beside the plan", ok=close, peak_gb=peak, planned_gb=planned)
