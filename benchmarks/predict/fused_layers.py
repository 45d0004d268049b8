"""Kernels and bytes of one decoder layer of LLaDA-8B: eager, with liger-kernel's kernels, and fused by torch.compile.

`python -m benchmarks.predict.fused_layers` writes benchmarks/results/fused_layers.json and the table beside it. No
layer runs: eager ops are counted on fake tensors (`op_counts`), Inductor's kernels are those of its scheduler, each
buffer of a kernel read or written once. Inductor schedules for the CPU: kernels for a GPU may be cut a little
differently. liger-kernel 0.8 is counted from its source: eager ops without RMSNorm, RoPE and SwiGLU, and one kernel
for each of them, in the forward and in the backward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from benchmarks.harness.markdown import table
from benchmarks.memory.simulated_step import llada_8b
from benchmarks.predict.op_counts import Ops, count, fake_gpu
from benchmarks.predict.roofline import Work
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import MaskedLlama

RESULTS = Path(__file__).parents[1] / "results" / "fused_layers.json"
KINDS = ("eager", "liger", "compiled")
ROWS, WIDTH = 4, 456  # the micro-batch that was measured on an H200
RANK, DROPOUT = 128, 0.05


@dataclass(frozen=True)
class Counted:
    """products: launches of matrix products and attention, product_bytes: what they move. kernels: all other launches,
    which is what fusion changes, and bytes: what they move."""

    products: int
    product_bytes: int
    kernels: int
    bytes: int


def counted_layer(kind: str, *, lora: bool, training: bool) -> dict[str, Counted]:
    """The forward of a layer over ROWS x WIDTH tokens, and with `training` its backward. kind: one of KINDS."""
    return {"eager": _eager, "liger": _liger, "compiled": _compiled}[kind](lora, training)


def _layer(lora: bool, training: bool) -> Any:
    """One decoder layer in bfloat16, adapters in float32, without memory."""
    with torch.device("meta"):
        model: Any = MaskedLlama(llada_8b(2))
        model.to(torch.bfloat16).requires_grad_(False)
        if lora:
            add_lora(model, rank=RANK, alpha=64, dropout=DROPOUT)
    return model.model.layers[0].train(training)


def _filled(layer: Any) -> Any:
    """The layer, in place, with memory on the CPU that nothing writes."""
    for module in layer.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
    return layer


def _inputs(training: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    config = llada_8b(2)
    hidden = torch.empty(ROWS, WIDTH, config.hidden_size, dtype=torch.bfloat16, requires_grad=training)
    angles = torch.empty(1, WIDTH, config.hidden_size // config.num_attention_heads, dtype=torch.bfloat16)
    return hidden, (angles, angles.clone())


# ---------------------------------------------------------------------------------------------- eager, liger


def _eager(lora: bool, training: bool) -> dict[str, Counted]:
    layer = _layer(lora, training)
    with fake_gpu(FakeTensorMode()), torch.set_grad_enabled(training):
        layer, (hidden, angles) = _filled(layer), _inputs(training)
        for p in layer.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        if training:
            hidden.grad = torch.zeros_like(hidden)
        return _phases(lambda: layer(hidden, position_embeddings=angles), training)


def _liger(lora: bool, training: bool) -> dict[str, Counted]:
    eager, unit = _eager(lora, training), ROWS * WIDTH * 2 * llada_8b(2).hidden_size
    wide = llada_8b(2).intermediate_size / llada_8b(2).hidden_size
    # RMSNorm twice: x to y; dy, x to dx. RoPE in place on queries and keys. SwiGLU: a, b to c; dc, a, b to da, db.
    of_liger = {"forward": (2 * 2 + 4 + 3 * wide) * unit, "backward": (2 * 3 + 4 + 5 * wide) * unit}
    replaced = _replaced_by_liger(training)
    return {
        phase: Counted(
            all_ops.products,
            all_ops.product_bytes,
            all_ops.kernels - replaced[phase].kernels + 4,
            all_ops.bytes - replaced[phase].bytes + int(of_liger[phase]),
        )
        for phase, all_ops in eager.items()
    }


def _replaced_by_liger(training: bool) -> dict[str, Counted]:
    """Eager RMSNorm, twice, RoPE and SwiGLU alone."""
    layer, config = _layer(False, training), llada_8b(2)
    with fake_gpu(FakeTensorMode()), torch.set_grad_enabled(training):
        layer = _filled(layer)
        hidden, angles = _inputs(training)
        heads = torch.empty(ROWS, WIDTH, config.num_attention_heads, angles[0].shape[-1], dtype=torch.bfloat16)
        query, key = (heads.clone().transpose(1, 2).requires_grad_(training) for _ in range(2))
        gate, up = (
            torch.empty(ROWS, WIDTH, config.intermediate_size, dtype=torch.bfloat16, requires_grad=training)
            for _ in range(2)
        )
        jobs: list[Callable[[], Any]] = [
            lambda: layer.input_layernorm(hidden),
            lambda: layer.post_attention_layernorm(hidden),
            lambda: apply_rotary_pos_emb(query, key, *angles),
            lambda: nn.functional.silu(gate) * up,
        ]
        for leaf in (hidden, query, key, gate, up):
            leaf.grad = None
        parts = [_phases(job, training) for job in jobs]
    return {
        phase: Counted(0, 0, sum(p[phase].kernels for p in parts), sum(p[phase].bytes for p in parts))
        for phase in parts[0]
    }


def _phases(job: Callable[[], Any], training: bool) -> dict[str, Counted]:
    results: list[Any] = []
    phases = {"forward": _summed(count(lambda: results.append(job())))}
    if training:
        outputs = results[0] if isinstance(results[0], tuple) else (results[0],)
        slopes = [torch.empty_like(out) for out in outputs]
        phases["backward"] = _summed(count(lambda: torch.autograd.backward(outputs, slopes)))
    return phases


def _summed(ops: Ops) -> Counted:
    products = {work: times for work, times in ops.items() if work.tensor}
    others = {work: times for work, times in ops.items() if not work.tensor}
    return Counted(
        sum(products.values()),
        int(sum(work.bytes * times for work, times in products.items())),
        sum(others.values()),
        int(sum(work.bytes * times for work, times in others.items())),
    )


# ---------------------------------------------------------------------------------------------- torch.compile


def _compiled(lora: bool, training: bool) -> dict[str, Counted]:
    """The kernels that Inductor's scheduler has decided on; no code is generated for them."""
    from torch._inductor.compile_fx import compile_fx

    phases: dict[str, Counted] = {}

    def lower(graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        outputs: Any = graph.graph.output_node().args[0]
        results = [node.meta["val"] if isinstance(node, fx.Node) else node for node in outputs]
        phases["backward" if options.get("is_backward") else "forward"] = _scheduled(graph, inputs, options)

        def run(_: Any) -> list[Any]:
            return [
                torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if isinstance(x, Tensor) else x for x in results
            ]

        boxed: Any = run
        boxed._boxed_call = True
        return boxed

    def backend(graph: fx.GraphModule, inputs: list[Any]) -> Any:
        return compile_fx(graph, inputs, inner_compile=lower)

    layer, (hidden, angles) = _filled(_layer(lora, training)), _inputs(training)
    torch._dynamo.reset()
    caches = torch._functorch.config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True)
    with caches, torch._inductor.config.patch(fx_graph_cache=False), torch.set_grad_enabled(training):
        run = torch.compile(type(layer).forward, backend=backend, fullgraph=True, dynamic=False)
        run(layer, hidden, position_embeddings=angles)
    torch._dynamo.reset()
    return phases


def _scheduled(graph: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> Counted:
    from torch._inductor.compile_fx import _recursive_post_grad_passes, record_original_output_strides
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    mode: Any = torch._guards.detect_fake_mode(inputs)
    inference = bool(options.get("is_inference"))
    with V.set_fake_mode(mode):
        record_original_output_strides(graph)
        _recursive_post_grad_passes(graph, is_inference=inference)
        lowering = GraphLowering(
            graph,
            example_inputs=inputs,
            shape_env=mode.shape_env,
            is_inference=inference,
            is_backward=bool(options.get("is_backward")),
        )
        with V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]), V.set_debug_handler(DebugContext()):
            lowering.run(*inputs)
            lowering.init_wrapper_code()
            lowering._update_scheduler()
            nodes = [
                (type(node).__name__, int(node.get_read_write_buffers_sizes())) for node in lowering.scheduler.nodes
            ]
    moved = {
        extern: [size for name, size in nodes if (name == "ExternKernelSchedulerNode") == extern and "Nop" not in name]
        for extern in (True, False)
    }
    return Counted(len(moved[True]), sum(moved[True]), len(moved[False]), sum(moved[False]))


# ---------------------------------------------------------------------------------------------- report


@cache
def _written() -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(RESULTS.read_text())
    return records


def fused_kernels(tokens: int, *, lora: bool, training: bool) -> list[Work]:
    """The kernels of a compiled layer besides its products, as they were counted, in a pass over so many tokens: with
    `training` forward and backward. Bytes grow with the tokens."""
    kernels = []
    for record in _written():
        if (record["kind"], record["lora"], record["training"]) == ("compiled", lora, training):
            each = record["bytes"] / record["kernels"] * tokens / (ROWS * WIDTH)
            kernels += [Work(each, launches=1)] * record["kernels"]
    return kernels


def quantising_kernels(tokens: int, *, training: bool) -> list[Work]:
    """The kernels that an FP8 product adds to a compiled layer: one for each operand that is no weight. It reads the
    rows twice, for their scale and to round them, and writes a byte an element: an assumption, not a count."""
    config = llada_8b(2)
    hidden, wide = config.hidden_size, config.intermediate_size
    inputs, outputs = [*[hidden] * 6, wide], [*[hidden] * 5, wide, wide]  # q, k, v, o, gate, up, down
    return [Work(5.0 * tokens * width, launches=1) for width in (*inputs, *(outputs if training else ()))]


def measure() -> list[dict[str, Any]]:
    """One record for each kind, with LoRA and without, in a forward without gradient and in a training pass."""
    return [
        {"kind": kind, "lora": lora, "training": training, "phase": phase, **asdict(counted)}
        for training in (False, True)
        for lora in (False, True)
        for kind in KINDS
        for phase, counted in counted_layer(kind, lora=lora, training=training).items()
    ]


def page(records: list[dict[str, Any]]) -> str:
    """The table of the records."""
    unit = ROWS * WIDTH * llada_8b(2).hidden_size * 2
    rows = [
        [
            "training" if r["training"] else "no gradient",
            "LoRA" if r["lora"] else "none",
            r["phase"],
            r["kind"],
            str(r["products"]),
            str(r["kernels"]),
            f"{r['bytes'] / unit:.1f}",
        ]
        for r in records
    ]
    head = ["pass", "adapters", "phase", "layer", "products", "other kernels", "their bytes, in hidden states"]
    return (
        "# Fused layers\n\nOne decoder layer of LLaDA-8B, "
        f"{ROWS} x {WIDTH} tokens, bfloat16, counted by `python -m benchmarks.predict.fused_layers` without a GPU. "
        "Bytes are in units of the hidden states of a pass. Products include attention.\n\n" + table(head, rows) + "\n"
    )


if __name__ == "__main__":
    written = measure()
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(written))
