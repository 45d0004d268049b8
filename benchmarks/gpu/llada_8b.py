"""How fast are LLaDA-8B's passes, decoding steps and updates, and how much memory do they hold?

The weights are random, so confidences mean nothing: how many tokens a step unmasks is a decoder's own rule at work, and
tokens a second are given for 1, 2 and 4 tokens a step. A whole completion of `topk` at batch 64 takes minutes, so a few
steps of one block are timed, the first and later ones apart, and tokens a second are derived from them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.attempts import attempt, release
from benchmarks.gpu.decoding_8b import DECODERS, decoding
from benchmarks.gpu.levers_8b import compiled_layers, graph_of_a_block, merged_adapters
from benchmarks.gpu.model_8b import random_model, sizes_of, with_adapters
from benchmarks.gpu.passes_8b import passes
from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import measure
from benchmarks.gpu.update_8b import rollout_memory, update

COMPILING = 45.0  # seconds, a guess
FLOAT32 = 3.0  # seconds of a float32 copy of the model and its pass, a guess


def run(setting: GpuSetting, note: Note) -> None:
    """The most important first; a measurement that does not fit into the remaining time is left out, with a note."""
    sizes, device = sizes_of(setting.rehearse), setting.device
    models: list[Any] = []
    timing = measure(device, lambda: models.append(random_model(sizes, device, setting.seed)), repeats=1, warm=0)
    model = models.pop()
    note(
        "random weights, made on the device",
        seconds=timing.device_seconds,
        parameters=sum(p.numel() for p in model.parameters()),
        dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
    )
    canvas = passes(setting, note, sizes, model, "none")
    decoding(setting, note, sizes, model, "none", sizes.rows, DECODERS, canvas)
    few = {name: DECODERS[name] for name in ("dual_cache", "topk")}
    again = few if setting.rehearse else DECODERS
    decoding(setting, note, sizes, model, "none", 1, again, canvas)

    policy = with_adapters(model, sizes, device)
    attempt(setting, note, "passes with LoRA", lambda: passes(setting, note, sizes, policy, "lora"), 10 * canvas)
    optimizer = attempt(setting, note, "update", lambda: update(setting, note, sizes, policy), 10 * canvas)
    decoding(setting, note, sizes, policy, "lora", sizes.rows, few, canvas)
    if optimizer is not None:  # its moments count in the plan of a rollout
        job = lambda: rollout_memory(setting, note, sizes, policy)  # noqa: E731
        attempt(setting, note, "memory of a rollout", job, 5 * canvas)
        optimizer = None
    release(device)
    attempt(
        setting, note, "adapters merged", lambda: merged_adapters(setting, note, sizes, policy), 15 * canvas + FLOAT32
    )

    model = policy.unload()
    decoding(setting, note, sizes, model, "none", sizes.many_rows, again, canvas)

    policy = with_adapters(model, sizes, device)
    graph = lambda: graph_of_a_block(setting, note, sizes, policy)  # noqa: E731
    attempt(setting, note, "CUDA graph of a block pass", graph, 5.0 + FLOAT32)
    attempt(
        setting, note, "layers compiled", lambda: compiled_layers(setting, note, sizes, policy), COMPILING + FLOAT32
    )
