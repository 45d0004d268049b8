"""Launches of a pass, of a micro-batch and of each op, of a LLaDA with its own vocabulary and few, narrow layers.

What a pass launches is counted with two and with three layers; the difference is one layer, the rest is outside of
layers. The backward of the first layer is shorter where its input has no gradient, so the rest of an operator can be
negative. Neither depends on the width of the model, on the batch, or on the number of positions, as long as the logits
fit into one piece.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dmpo import generate, kernels
from dmpo.models import new_model
from dmpo.models.lora import add_lora
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import apply_head_to_views, sequence_log_prob
from tests.pretend_cuda import ops_group
from tests.pretend_cuda.counts import Counts, counting
from tests.pretend_cuda.decoder_group import counted_steps
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.tensor import module_on_device, on_device

LAYERS = 32  # of LLaDA-8B
VOCABULARY, MASK, EOS = 126464, 126336, 126081  # of LLaDA
ROWS, PROMPT, LENGTH = 2, 3, 6
NARROW: dict[str, Any] = {
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_hidden_size": 48,
    "mask_id": MASK,
    "eos_id": EOS,
    "init_std": 0.3,
}


@dataclass(frozen=True)
class Pass:
    """kind: "decode" (options of `generate`; its second step counts), "score" or "update". adapters: with LoRA."""

    kind: str
    adapters: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    padded: bool = False
    checkpointing: bool = False


def _decode(decoder: str, *, adapters: bool = False, padded: bool = False, **options: Any) -> Pass:
    return Pass("decode", adapters, {"decoder": decoder, "temperature": 0.2, **options}, padded)


PASSES: dict[str, Pass] = {
    "canvas pass": _decode("topk"),
    "canvas pass, LoRA": _decode("topk", adapters=True),
    "canvas pass, padded prompts": _decode("topk", padded=True),
    "canvas pass, guidance": _decode("topk", cfg_scale=0.5),
    "canvas pass, threshold": _decode("parallel", threshold=0.9),
    "canvas pass, random order": _decode("random_order"),
    "canvas and shadow pass (wino)": _decode("wino"),
    "suffix pass (prefix_cache)": _decode("prefix_cache"),
    "block pass (dual_cache)": _decode("dual_cache"),
    "block pass (dual_cache), LoRA": _decode("dual_cache", adapters=True),
    "block pass (dual_cache), threshold": _decode("dual_cache", threshold=0.9),
    "block pass (dual_cache), threshold, early stop": _decode("dual_cache", threshold=0.9, early_stop=True),
    "scoring pass": Pass("score"),
    "scoring pass, LoRA": Pass("score", adapters=True),
    "micro-batch, LoRA": Pass("update", adapters=True),
    "micro-batch, LoRA, gradient checkpointing": Pass("update", adapters=True, checkpointing=True),
    "micro-batch, every weight trained": Pass("update"),
}
FROZEN_AND_TRAINED = (False, True)
OPS: dict[str, ops_group.Case] = {
    ops_group.name_of(case).replace(" fp16", ""): case
    for case in (
        *(
            ops_group.Case(op, "fp16", trained, vocab=VOCABULARY)
            for op in ("linear_weighted_ce", "linear_token_logprobs")
            for trained in FROZEN_AND_TRAINED
        ),
        *(ops_group.Case(op, "fp16", vocab=VOCABULARY) for op in ("weighted_masked_ce", "masked_token_logprobs")),
        *(
            ops_group.Case(op, "fp16", temperature=0.2, vocab=VOCABULARY)
            for op in ("sample_tokens", "linear_sample_tokens")
        ),
        ops_group.Case("remask_", "fp16", rule="count", vocab=VOCABULARY),
        ops_group.Case("revoke_", "fp16", rule="count", vocab=VOCABULARY),
    )
}
CASES: dict[str, Pass | ops_group.Case] = {**PASSES, **OPS}


def measure(case: Pass | ops_group.Case) -> dict[str, Any]:
    """Of an op: launches, operators, syncs. Of a pass: launches of a layer, outside, of LAYERS layers; operators."""
    if isinstance(case, ops_group.Case):
        counted = _count_op(case)
        return {
            "launches": sum(counted.launches.values()),
            "operators": _sorted(counted.launches),
            "syncs": sum(counted.syncs.values()),
        }
    two, three = (_count_pass(case, layers) for layers in (2, 3))
    layer = three.launches.copy()
    layer.subtract(two.launches)
    outside = two.launches.copy()
    outside.subtract({name: 2 * count for name, count in layer.items()})
    if min(layer.values()) < 0 or two.syncs != three.syncs:
        raise ValueError(f"launches are not those of equal layers and a rest: {two} with two, {three} with three")
    return {
        "layer": sum(layer.values()),
        "outside": sum(outside.values()),
        "launches": LAYERS * sum(layer.values()) + sum(outside.values()),
        "syncs": sum(two.syncs.values()),
        "layer_operators": _sorted(layer),
        "outside_operators": _sorted(outside),
    }


def _count_op(case: ops_group.Case) -> Counts:
    function, x = ops_group.OPS[case.op], on_device(ops_group.problem(case))
    with pretend_cuda():
        if "sample" in case.op:
            function(case, kernels, x)  # copies the forbidden tokens to the device, once a process
        with counting() as counted:
            function(case, kernels, x)
    return counted


def _count_pass(case: Pass, layers: int) -> Counts:
    model = _model(case, layers)
    prompts = torch.randint(0, 1000, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1))
    attended = torch.ones(ROWS, PROMPT, dtype=torch.bool)
    attended[0, 0] = not case.padded
    with pretend_cuda():
        if case.kind == "decode":
            return _count_step(model, on_device(prompts), on_device(attended) if case.padded else None, case.options)
        tokens = torch.randint(0, 1000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2))
        mask = torch.arange(LENGTH).expand(ROWS, -1) % 2 == 0
        rows = Completions(*on_device((prompts, attended, tokens, torch.ones_like(mask))))
        views, weights = on_device((mask, torch.tensor([0.5, -1.0])))
        with counting() as counted:
            if case.kind == "score":
                sequence_log_prob(model, rows, views, mask_id=MASK, batch_size=ROWS)
            else:
                _forward_and_backward(model, rows, views, weights)
        return counted


def _count_step(model: nn.Module, prompts: Tensor, attended: Tensor | None, options: dict[str, Any]) -> Counts:
    steps: list[Counts] = []
    shape: dict[str, Any] = {"gen_length": LENGTH, "block_length": LENGTH, "steps": LENGTH // 2}
    with counted_steps(steps):
        generate(model, prompts, attention_mask=attended, **shape, **options)
    return steps[1]


def _forward_and_backward(model: nn.Module, rows: Completions, views: Tensor, weights: Tensor) -> None:
    """What `accumulate_gradient` does with each of its micro-batches, for WDCE."""

    def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return kernels.linear_weighted_ce(hidden, weight, rows.tokens, views, weights, bias=bias)[0]

    model.train()
    apply_head_to_views(model, rows, views, MASK, head).backward()


def _model(case: Pass, layers: int) -> nn.Module:
    # A draw is two launches, whatever the vocabulary, and linear cross-entropy has launches for each tile of it.
    special: dict[str, Any] = {} if case.kind != "decode" else {"mask_id": 1001, "eos_id": 1002}
    vocabulary = VOCABULARY if case.kind != "decode" else 1003
    model: Any = new_model(vocab_size=vocabulary, num_layers=layers, **(NARROW | special))
    model = model.to(torch.float16)
    if case.checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if case.adapters:
        model = add_lora(model, rank=4, alpha=8, dropout=0.05)
    return module_on_device(model.eval())


def _sorted(operators: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(operators.items()) if count}
