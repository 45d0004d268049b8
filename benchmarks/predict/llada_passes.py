"""LLaDA-8B's passes and the work after them, published and ours, counted on simulated tensors.

Everything is counted from the code that runs, with 2 and 3 blocks of the model; the other blocks repeat the third. The
work after the last hidden state:

- published: logits of every position of a pass; float64 noise and softmax over all of them in a rollout
  (`baselines.decoders`), cross-entropy of all of them in scoring and the loss (`baselines.training_step.published`);
- ours: masked positions alone, through dmpo's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.baselines.decoders import draw
from benchmarks.baselines.training_step import published as published_loss
from benchmarks.memory.simulated_step import fill, llada_8b
from benchmarks.predict.op_counts import Ops, count, extended, fake_gpu, peak
from dmpo.config import DMPOConfig
from dmpo.decoding.cache import BlockCache
from dmpo.kernels.linear_ce import frozen_head
from dmpo.kernels.sampling import from_hidden as linear_sampling
from dmpo.models.masked_lm import MaskedLlama, hidden_states
from dmpo.rollouts.policy import make_policy


class Simulation:
    """Counts of LLaDA-8B with a config's adapters: its passes, and what follows them.

    wide_adapters: LoRA's weights in float32, as without DeepSpeed; or in the model's dtype.
    """

    def __init__(self, config: DMPOConfig, *, wide_adapters: bool) -> None:
        self.config, self.model, self.mode = config, llada_8b(), FakeTensorMode()
        with torch.device("meta"):
            models: list[Any] = [MaskedLlama(llada_8b(layers)) for layers in (2, 3)]
            policies = [make_policy(config, "meta", model.to(self.dtype)) for model in models]
            for module in [] if wide_adapters else [m for policy in policies for m in policy.modules()]:
                for name, p in module._parameters.items():
                    if p is not None and p.requires_grad:
                        module._parameters[name] = nn.Parameter(p.to(self.dtype))
        with fake_gpu(self.mode):
            self.policies: list[Any] = [fill(policy) for policy in policies]
            self.head = torch.empty(self.model.vocab_size, self.model.hidden_size, dtype=self.dtype)
        self.forward = cache(self._forward)
        self.training = cache(self._training)
        self.tail = cache(self._tail)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.config.dtype)
        return found

    def trained(self) -> int:
        """Parameters that have a gradient."""
        fewer, more = (sum(p.numel() for p in policy.parameters() if p.requires_grad) for policy in self.policies)
        return fewer + (self.model.num_hidden_layers - 2) * (more - fewer)

    def _all_blocks(self, one: Callable[[Any], Ops]) -> Ops:
        fewer, more = (one(policy) for policy in self.policies)
        return extended(fewer, more, self.model.num_hidden_layers)

    def _forward(self, rows: int, width: int, attended: int = 0, adapters: bool = True, dropout: bool = False) -> Ops:
        """A pass without gradient over `width` tokens of each row, among `attended` tokens whose keys are kept."""

        def one(policy: Any) -> Ops:
            policy.train(dropout)
            arguments: tuple[Any, ...] = (torch.zeros(rows, width, dtype=torch.int64), None)
            kept: dict[str, Any] = {}
            if attended:
                kept = {"past_key_values": BlockCache(policy.config.num_hidden_layers), "use_cache": True}
                hidden_states(policy, torch.zeros(rows, attended, dtype=torch.int64), **kept)
                kept["past_key_values"].place.positions = torch.arange(width)
                arguments += (torch.arange(width).unsqueeze(0),)
            if adapters:
                return count(lambda: hidden_states(policy, *arguments, **kept))
            with policy.disable_adapter():
                return count(lambda: hidden_states(policy, *arguments, **kept))

        with torch.no_grad(), fake_gpu(self.mode):
            return self._all_blocks(one)

    def _training(self, rows: int, width: int) -> Ops:
        """Forward and backward of a later micro-batch, whose gradients are added."""

        def one(policy: Any) -> Ops:
            policy.train()
            ids = torch.zeros(rows, width, dtype=torch.int64)
            slope = torch.empty(rows, width, self.model.hidden_size, dtype=self.dtype)
            for p in policy.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            return count(lambda: hidden_states(policy, ids).backward(slope))

        with fake_gpu(self.mode):
            return self._all_blocks(one)

    def _tail(self, kind: str, phase: str, rows: int, width: int, live: int) -> Ops:
        """What follows the last hidden states [rows, width, H] of a pass, `live` of them masked; kind: published or
        ours, phase: rollout, score or update."""
        with fake_gpu(self.mode):
            return count(self._job(kind, phase, rows, width, live)[0])

    def tail_peak(self, kind: str, phase: str, rows: int, width: int, live: int) -> int:
        """Bytes that it holds at once, above the hidden states and the head."""
        with fake_gpu(self.mode):
            job, inputs = self._job(kind, phase, rows, width, live)
            return peak(job, [*inputs, self.head])

    def _job(self, kind: str, phase: str, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        found: tuple[Callable[[], Any], list[Tensor]] = getattr(self, f"_{kind}_{phase}")(rows, width, live)
        return found

    # ------------------------------------------------------------------------------------------ published

    def _published_rollout(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden = self._hidden(rows, width)
        return lambda: draw(F.linear(hidden, self.head), self.config.temperature), [hidden]

    def _published_score(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden = self._hidden(rows, width)
        job, inputs = self._published_job(hidden)
        return torch.no_grad()(job), inputs

    def _published_update(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden = self._hidden(rows, width).requires_grad_()
        job, inputs = self._published_job(hidden)

        def step() -> None:
            job().backward()
            hidden.grad = None

        return step, inputs

    def _published_job(self, hidden: Tensor) -> tuple[Callable[[], Tensor], list[Tensor]]:
        rows, width, _ = hidden.shape
        targets = torch.zeros(rows, width, dtype=torch.int64)
        mask, weights = targets.bool(), torch.zeros(rows)

        class Model(SimpleNamespace):
            def __call__(self, _: Tensor) -> Tensor:
                return hidden

        model: Any = Model(head=lambda x: F.linear(x, self.head))
        return lambda: published_loss(model, targets, targets, mask, weights), [hidden, targets, mask, weights]

    # ------------------------------------------------------------------------------------------ ours

    def _ours_rollout(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden, index = self._hidden(rows, width), torch.zeros(live, dtype=torch.int64)

        def draw_masked() -> None:
            chosen = hidden.flatten(0, 1)[index]
            chunks = linear_sampling.RowChunks(
                chosen, self.head, None, linear_sampling.LOGITS_BYTES["cuda"], self.config.temperature
            )
            for part in chosen.split(chunks.rows):
                chunks(part, self.config.temperature, 0, index, [0])

        return draw_masked, [hidden, index]

    def _ours_score(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden, index = self._hidden(rows, width), torch.zeros(live, dtype=torch.int64)
        return lambda: self._sweep(hidden, index, gradient=False), [hidden, index]

    def _ours_update(self, rows: int, width: int, live: int) -> tuple[Callable[[], Any], list[Tensor]]:
        hidden, index = self._hidden(rows, width), torch.zeros(live, dtype=torch.int64)

        def step() -> None:
            slope = self._sweep(hidden, index, gradient=True, c=index.float())
            assert slope is not None
            rounded = torch.mul(slope, slope[0, 0], out=torch.empty_like(slope, dtype=self.dtype))
            torch.zeros_like(hidden.flatten(0, 1)).index_copy_(0, index, rounded)

        return step, [hidden, index]

    def _sweep(self, hidden: Tensor, index: Tensor, *, gradient: bool, c: Tensor | None = None) -> Tensor | None:
        rows = hidden.flatten(0, 1)[index]
        return frozen_head.vocabulary_pass(
            rows, self.head, None, index, gradient=gradient, limit=None, row_scale=c
        ).grad_hidden

    def _hidden(self, rows: int, width: int) -> Tensor:
        return torch.empty(rows, width, self.model.hidden_size, dtype=self.dtype)
