"""LLaDA-8B's passes and the work after them, published and ours, counted on simulated tensors.

Everything is counted from the code that runs, with 2 and 3 blocks of the model; the other blocks repeat the third. The
work after the last hidden state:

- published: logits of every position of a pass; float64 noise and softmax over all of them in a rollout
  (`baselines.decoders`), cross-entropy of all of them in scoring and the loss (`baselines.training_step.published`);
- ours: masked positions alone, through dmpo's kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
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
from benchmarks.predict.fused_layers import fused_kernels, quantising_kernels
from benchmarks.predict.op_counts import Ops, count, extended, fake_gpu, peak, scaled
from benchmarks.predict.roofline import Work
from dmpo.config import DMPOConfig
from dmpo.decoding.cache import BlockCache
from dmpo.kernels.linear_ce import frozen_head
from dmpo.kernels.sampling import from_hidden as linear_sampling
from dmpo.models.fp8 import fp8_base
from dmpo.models.last_layer import HeadRows
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

    def _all_blocks(self, one: Callable[[Any], Ops], fused: Sequence[Work] = ()) -> Ops:
        """fused: the kernels of one compiled layer in place of the kernels between its products. The last layer is not
        compiled."""
        fewer, more = (one(policy) for policy in self.policies)
        ops, layers = extended(fewer, more, self.model.num_hidden_layers), self.model.num_hidden_layers - 1
        if fused:
            for work in fewer.keys() | more.keys():
                if not work.tensor:
                    ops[work] -= layers * (more[work] - fewer[work])
            ops += scaled(Counter(fused), layers)
        return ops

    @staticmethod
    def _fused(tokens: int, *, lora: bool, training: bool, fp8: bool) -> list[Work]:
        quantising = quantising_kernels(tokens, training=training) if fp8 else []
        return [*fused_kernels(tokens, lora=lora, training=training), *quantising]

    def _forward(
        self,
        rows: int,
        width: int,
        attended: int = 0,
        adapters: bool = True,
        dropout: bool = False,
        read: int = 0,
        live: int = 0,
        fp8: bool = False,
        compiled: bool = False,
    ) -> Ops:
        """A pass without gradient over `width` tokens of each row, among `attended` tokens whose keys are kept.

        adapters: without them it is also the pass of merged adapters. read, live: as of `_head_rows`. fp8: of the base.
        compiled: the layers are.
        """

        def one(policy: Any) -> Ops:
            policy.train(dropout)
            arguments: tuple[Any, ...] = (torch.zeros(rows, width, dtype=torch.int64), None)
            kept: dict[str, Any] = {}
            if attended:
                kept = {"past_key_values": BlockCache(policy.config.num_hidden_layers), "use_cache": True}
                hidden_states(policy, torch.zeros(rows, attended, dtype=torch.int64), **kept)
                kept["past_key_values"].place.positions = torch.arange(width)
                arguments += (torch.arange(width).unsqueeze(0),)
            with (
                nullcontext() if adapters else policy.disable_adapter(),
                fp8_base(policy) if fp8 else nullcontext(),
            ):
                return count(lambda: hidden_states(policy, *arguments, rows=_head_rows(read, live), **kept))

        fp8 = fp8 or self.config.fp8_training
        fused = self._fused(rows * width, lora=adapters, training=False, fp8=fp8) if compiled else ()
        with torch.no_grad(), fake_gpu(self.mode):
            return self._all_blocks(one, fused)

    def _training(self, rows: int, width: int, read: int = 0, live: int = 0, compiled: bool = False) -> Ops:
        """Forward and backward of a later micro-batch, whose gradients are added. read, live: as of `_head_rows`.
        compiled: the layers are."""

        def one(policy: Any) -> Ops:
            policy.train()
            ids = torch.zeros(rows, width, dtype=torch.int64)
            of_head, shape = _head_rows(read, live), (live,) if live else (rows, read or width)
            slope = torch.empty(*shape, self.model.hidden_size, dtype=self.dtype)
            for p in policy.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            return count(lambda: hidden_states(policy, ids, rows=of_head).backward(slope))

        fp8 = self.config.fp8_training
        fused = self._fused(rows * width, lora=True, training=True, fp8=fp8) if compiled else ()
        with fake_gpu(self.mode):
            return self._all_blocks(one, fused)

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


def _head_rows(read: int, live: int) -> HeadRows | None:
    """The last layer on the rows that the head reads: `live` of the last `read` positions of all rows, or all of these
    if live is 0; None if read is 0: on every position."""
    if not read:
        return None
    return HeadRows(torch.zeros(read, dtype=torch.int64), torch.zeros(live, dtype=torch.int64) if live else None)
