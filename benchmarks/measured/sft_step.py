"""What does a step of `dmpo sft` cost beside the same loss written plainly, with the logits of all positions?

    python -m benchmarks.measured.sft_step [--device cpu|cuda] [--threads 2] [--layers 2] [--quick] [--output FOLDER]

A Llama of SmolLM2-135M's sizes (hidden 576, 9 heads, 3 for keys, MLP 1536, V = 49152, tied head) with random weights
and so many of its 30 layers; every weight is trained. 16 rows, prompts of 16 to 96 tokens, answers of 8 to 64, padded
with EOS to the longest answer as LLaDA does it; masks drawn at t ~ U(0, 1).

- plain: rows padded to the longest, logits of every position, `F.cross_entropy` over all, times 1 / (t·L) where masked;
- ours:  `dmpo.objectives.denoising`: the passes, the last layer and the head that `dmpo sft` runs.

The loss is the same, and so is the norm of the gradient. Each variant runs in processes of its own, in turn, three of
each. Time: the median of all its steps, forward and backward. Memory: the most that one step adds to the memory in use,
gradients included; on a CPU it is counted from PyTorch's allocations, so that a busy machine does not change it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.child import in_own_process
from benchmarks.harness.clock import gauge, timed_steps
from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import RESULTS
from benchmarks.harness.setting import Load, Setting, about, header
from dmpo.config.sft import SFTConfig
from dmpo.models import new_model
from dmpo.objectives.denoising import MaskedSequences, loss_of_pass, masked, passes
from dmpo.rollouts.demonstrations import Demonstration, sequences

EOS, MASK = 2, 3
SECONDS = ("seconds_median", "seconds_best", "cpu_seconds_median")
TARGETS = {"times_faster": 2.0, "memory_share": 0.5}


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, and of the rows: prompts and answers of at most so many tokens."""

    rows: int = 16
    prompt: int = 96
    answer: int = 64
    vocab: int = 49152
    hidden: int = 576
    heads: int = 9
    key_heads: int = 3
    mlp: int = 1536
    layers: int = 2
    dtype: torch.dtype = torch.float32
    rounds: int = 3
    steps: int = 2


SHAPES = {
    "cpu": Shape(),
    "cuda": Shape(rows=64, prompt=384, answer=256, dtype=torch.bfloat16, steps=10),
    "quick": Shape(rows=3, prompt=8, answer=6, vocab=300, hidden=16, heads=2, key_heads=1, mlp=24, rounds=1, steps=1),
}


def config_of(shape: Shape) -> SFTConfig:
    """All rows pass at once, as far as they fit: the comparison is of losses, not of micro-batches."""
    lengths: dict[str, Any] = {"gen_length": shape.answer, "block_length": shape.answer, "steps": shape.answer}
    sizes: dict[str, Any] = {"max_prompt_length": shape.prompt, "batch_size": shape.rows, "micro_batch_size": 4}
    return SFTConfig(model="new", task="prompts", output_dir="none", lora_r=0, **lengths, **sizes)


def batch_of(shape: Shape) -> MaskedSequences:
    """Rows of random tokens, masked."""
    random = Random(0)

    def ids(most: int, least: int) -> list[int]:
        return [random.randrange(4, shape.vocab) for _ in range(random.randint(least, most))]

    rows = [
        Demonstration(ids(shape.prompt, shape.prompt // 6), [*ids(shape.answer - 1, shape.answer // 8), EOS])
        for _ in range(shape.rows)
    ]
    layout: Any = {"padding": "batch", "length": shape.answer, "eos_id": EOS}
    return masked(sequences(rows, range(shape.rows), **layout), 0, config_of(shape))


def plain(model: nn.Module, batch: MaskedSequences, shape: Shape) -> Tensor:
    """The loss and its gradient from the logits of all positions, as LLaDA's guidelines have it."""
    device = next(model.parameters()).device
    ids, masks, attended = (x.to(device) for x in (batch.rows.ids, batch.masks, batch.rows.attended))
    logits = model(ids.masked_fill(masks, MASK), attention_mask=attended).logits
    of_tokens = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), reduction="none")
    loss = (of_tokens.view(ids.shape) * masks * batch.weights.to(device).unsqueeze(1)).sum()
    loss.backward()
    return loss.detach()


def ours(model: nn.Module, batch: MaskedSequences, shape: Shape) -> Tensor:
    """The loss and its gradient as `dmpo sft` computes them."""
    config, device = config_of(shape), next(model.parameters()).device
    losses = []
    for one in passes(batch, config, MASK, rows=config.micro_batch_size):
        loss = loss_of_pass(model, one.to(device))
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


VARIANTS: dict[str, Callable[..., Tensor]] = {"plain": plain, "ours": ours}


def run_variant(setting: Setting, name: str, layers: int, with_memory: bool) -> dict[str, Any]:
    """One process's share. seconds, cpu_seconds: of each step; bytes: None unless asked for."""
    shape, clock = shape_of(setting, layers), gauge(setting)
    model = new_model(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_layers=shape.layers,
        num_heads=shape.heads,
        num_kv_heads=shape.key_heads,
        mlp_hidden_size=shape.mlp,
        mask_id=MASK,
        eos_id=EOS,
        tie_embeddings=True,
    )
    module: Any = model  # the stubs of transformers take no device
    module.to(setting.place, shape.dtype).train()
    batch = batch_of(shape)

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        return VARIANTS[name](model, batch, shape)

    def measured_step() -> tuple[Tensor, Tensor]:
        loss = step()
        return loss, nn.utils.clip_grad_norm_(model.parameters(), math.inf)

    loss, norm = measured_step()  # threads and workspaces exist
    _, times = timed_steps(clock, measured_step, shape.steps)
    model.zero_grad(set_to_none=True)
    most = clock.peak(step) if with_memory else None  # the profiler makes a step several times slower
    return {**times, "bytes": most, "loss": loss.item(), "grad_norm": norm.item()}


def shape_of(setting: Setting, layers: int) -> Shape:
    return replace(SHAPES[setting.size], layers=layers)


def measure(setting: Setting, layers: int) -> dict[str, Any]:
    """Both variants in turn."""
    shape = shape_of(setting, layers)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for number in range(shape.rounds):
        for name in VARIANTS:
            options: dict[str, Any] = {"name": name, "layers": layers, "with_memory": number == 0}
            runs[name].append(in_own_process(run_variant, setting, **options))
    variants = {
        name: {
            "seconds_median": median(s for run in of_name for s in run["seconds"]),
            "seconds_best": min(s for run in of_name for s in run["seconds"]),
            "cpu_seconds_median": median(s for run in of_name for s in run["cpu_seconds"]),
            **{key: of_name[0][key] for key in ("bytes", "loss", "grad_norm")},
        }
        for name, of_name in runs.items()
    }
    batch = batch_of(shape)
    counts = {"positions": batch.rows.ids.numel(), "tokens": int(batch.rows.attended.sum())}
    return {
        "shape": {**vars(shape), "dtype": str(shape.dtype), **counts, "masked": int(batch.masks.sum())},
        "variants": variants,
        "times_faster": variants["plain"]["seconds_median"] / variants["ours"]["seconds_median"],
        "memory_share": variants["ours"]["bytes"] / max(1, variants["plain"]["bytes"]),
        "targets": TARGETS,
    }


def markdown(results: dict[str, Any]) -> str:
    """The answer, then the table."""
    shape, targets = results["shape"], results["targets"]
    faster = "met" if results["times_faster"] >= targets["times_faster"] else "MISSED"
    leaner = "met" if results["memory_share"] <= targets["memory_share"] else "MISSED"
    rows = [
        [name, *(f"{row[key]:.3f}" for key in SECONDS), f"{row['bytes'] / 1e6:.0f}"]
        + [f"{row[key]:.5f}" for key in ("loss", "grad_norm")]
        for name, row in results["variants"].items()
    ]
    text = [
        f"# One step of supervised fine-tuning on {results['header']['device']}",
        "",
        f"Ours is {results['times_faster']:.2f} times faster than plain (target {targets['times_faster']:g}: {faster}) "
        f"with {results['memory_share']:.2f} of its memory (target {targets['memory_share']:g}: {leaner}).",
        "",
        about(results),
        "",
        f"{shape['layers']} layers, V = {shape['vocab']}, {shape['rows']} rows: {shape['positions']} positions with "
        f"padding, {shape['tokens']} without, {shape['masked']} masked.",
        "",
        table(["", "s, median", "s, best", "CPU s, median", "peak MB", "loss", "gradient norm"], rows),
    ]
    return "\n".join(text) + "\n"


def main(words: list[str] | None = None) -> None:
    """Measure, print and write sft_step-LAYERS.json and .md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--layers", type=int, default=2, help="of the model; SmolLM2-135M has 30")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, not figures")
    parser.add_argument("--output", type=Path, help="folder in place of benchmarks/results/DEVICE")
    options = parser.parse_args(words)
    setting = Setting(options.device, options.threads, options.quick)
    setting.begin()
    load = Load()
    measured = measure(setting, options.layers)
    results = {"header": header(setting, f"python -m benchmarks.measured.sft_step --layers {options.layers}", load)}
    results |= measured
    folder = options.output or RESULTS / setting.slug
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"sft_step-{options.layers}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    from benchmarks.measured import sft_step  # processes of its own import it by this name

    sft_step.main()
