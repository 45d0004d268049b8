"""How long does a rollout take, how many model calls, and how much memory, beside the decoders as published?

    python -m benchmarks --only decoders [--device cuda]

A LLaDA with the real vocabulary (V = 126464) and random weights; on a CPU d = 128, 2 layers, float32, 4 prompts of 64
tokens, 128 new ones, blocks of 32, 64 steps, T = 0 and 0.2. Ours is `dmpo.generate`; published is
baselines/decoders.py: logits of all positions, float64 softmax and noise over the whole vocabulary. Each decoder,
temperature and side has a process of its own, and one short call before the timed calls. Memory is the peak above the
memory before any call: the resident set, on a GPU the allocations of torch. At T = 0 the tokens are compared.

Then model calls are counted, on the embedded Sudoku model, whose confidences mean something: WINO on batches of 8
against row by row, and a threshold on 16 rows of mixed difficulty, each at its own pace, against lockstep, where every
block waits for its slowest row. decoders_report.py makes answers from the results.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines.decoders import published_generate
from benchmarks.harness.child import in_own_process
from benchmarks.harness.clock import gauge, timed_steps
from benchmarks.harness.setting import Setting
from benchmarks.measured.decoders_report import markdown as markdown
from benchmarks.measured.decoders_report import plot as plot
from dmpo import generate, load_model
from dmpo.models import load_tokenizer, new_model
from dmpo.tasks import Sudoku4

DECODERS, TEMPERATURES = ("topk", "prefix_cache", "dual_cache"), (0.0, 0.2)
TARGETS = {  # times faster than published, by temperature
    "topk": {0.0: 5.5, 0.2: 30.0},
    "prefix_cache": {0.0: 5.5, 0.2: 30.0},
    "dual_cache": {0.0: 3.5, 0.2: 11.0},
}


@dataclass(frozen=True)
class Size:
    """The model, prompts of ids below `words`, and decoding; how often each side is timed; and batches of puzzles for
    the counts of calls."""

    model: dict[str, Any]
    dtype: str
    words: int
    batch: int
    prompt_length: int
    gen_length: int
    block_length: int
    steps: int
    repeats: dict[str, int]
    puzzles: int = 8

    @property
    def shape(self) -> dict[str, int]:
        names = ("batch", "prompt_length", "gen_length", "block_length", "steps")
        return {name: getattr(self, name) for name in names}


# Weights of ten times the usual spread: with the usual one rounding decides which of many best tokens comes first.
TINY: dict[str, Any] = {
    "vocab_size": 126464,
    "hidden_size": 128,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_hidden_size": 512,
    "mask_id": 126336,
    "eos_id": 126081,
    "init_std": 0.2,
}
LARGE = TINY | {"hidden_size": 2048, "num_layers": 8, "num_heads": 16, "mlp_hidden_size": 6144, "init_std": 0.05}
QUICK = (
    TINY
    | {"vocab_size": 300, "hidden_size": 16, "num_heads": 2, "mlp_hidden_size": 16}
    | {"mask_id": 298, "eos_id": 297}
)
SIZES = {
    "cpu": Size(TINY, "float32", 120_000, 4, 64, 128, 32, 64, {"ours": 3, "published": 1}),
    "cuda": Size(LARGE, "bfloat16", 120_000, 4, 64, 128, 32, 64, {"ours": 5, "published": 2}),
    "quick": Size(QUICK, "float32", 290, 2, 4, 8, 4, 4, {"ours": 1, "published": 1}, puzzles=1),
}


def run_side(setting: Setting, side: str, decoder: str, temperature: float) -> dict[str, Any]:
    """One process's share: {"seconds", "cpu_seconds": [...], "bytes", "forwards", "row_forwards", "tokens"}.

    Tokens: the tokens of the completion.
    """
    size, place, clock = SIZES[setting.size], setting.place, gauge(setting)
    model: Any = new_model(**size.model)
    model.to(place, getattr(torch, size.dtype))
    prompts = torch.randint(0, size.words, (size.batch, size.prompt_length), generator=torch.manual_seed(0)).to(place)

    def decode(gen_length: int, steps: int) -> tuple[Tensor, int, int]:
        options: dict[str, Any] = {"decoder": decoder, "gen_length": gen_length, "steps": steps}
        options |= {"block_length": size.block_length, "temperature": temperature}
        if side == "ours":
            made = generate(model, prompts, **options)
            return made.sequences, made.forwards, made.row_forwards
        sequences, forwards = published_generate(model, prompts, mask_id=size.model["mask_id"], **options)
        return sequences, forwards, forwards * len(prompts)

    with torch.no_grad():
        model.model(prompts[:1])  # threads and workspaces exist
    watch = clock.watch()
    decode(size.block_length, 2)
    last, times = timed_steps(clock, lambda: decode(size.gen_length, size.steps), size.repeats[side])
    sequences, forwards, row_forwards = last
    return {
        **times,
        "bytes": watch.stop(),
        "forwards": forwards,
        "row_forwards": row_forwards,
        "tokens": sequences[:, size.prompt_length :].tolist(),
    }


def count_calls(setting: Setting) -> dict[str, list[dict[str, Any]]]:
    """Model calls of ours and published on puzzles of 1 to 15 holes, batch by batch, T = 0."""
    size = SIZES[setting.size]
    model: Any = load_model("sudoku-tiny", dtype="float32", device=str(setting.place))
    tokenizer = load_tokenizer("sudoku-tiny")
    task = Sudoku4(min_holes=1, max_holes=15)
    mask_id = model.config.mask_token_id
    counts: dict[str, list[dict[str, Any]]] = {"wino": [], "threshold": []}
    jobs = {
        "wino": (8, {"decoder": "wino", "block_length": 8}),
        "threshold": (16, {"decoder": "parallel", "threshold": 0.9, "block_length": 4}),
    }
    for name, (rows, options) in jobs.items():
        for batch in range(size.puzzles):
            puzzles = [task.row("test", batch * rows + i)["prompt"] for i in range(rows)]
            prompts = torch.tensor(tokenizer(puzzles, add_special_tokens=False)["input_ids"], device=setting.place)
            same: dict[str, Any] = {"gen_length": 16, "steps": 16, **options}
            ours = generate(model, prompts, **same)
            sequences, forwards = published_generate(model, prompts, mask_id=mask_id, **same)
            made = {"forwards": ours.forwards, "row_forwards": ours.row_forwards, "published_forwards": forwards}
            # One at a time a row costs its calls; in lockstep every row goes through every call.
            made["published_row_forwards"] = forwards if name == "wino" else forwards * rows
            made["same_rows"] = int((ours.sequences == sequences).all(1).sum())
            counts[name].append({"rows": rows} | made)
    return counts


def measure(setting: Setting) -> dict[str, Any]:
    size, runs = SIZES[setting.size], []
    for decoder in DECODERS:
        for temperature in TEMPERATURES:
            one: dict[str, Any] = {"decoder": decoder, "temperature": temperature}
            sides = {side: in_own_process(run_side, setting, side=side, **one) for side in ("ours", "published")}
            runs.append(compare(**one, **sides))
    return {
        "model": size.model,
        "dtype": size.dtype,
        "shape": size.shape,
        "runs": runs,
        "calls": in_own_process(count_calls, setting),
    }


def compare(decoder: str, temperature: float, ours: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """One line of the table. At T > 0 the two draw other numbers, and `same_tokens` is None."""
    same = torch.tensor(ours.pop("tokens")) == torch.tensor(published.pop("tokens"))
    for side in (ours, published):
        side["seconds_best"], side["seconds_median"] = min(side["seconds"]), statistics.median(side["seconds"])
    ratio = published["seconds_best"] / ours["seconds_best"]
    line = {"decoder": decoder, "temperature": temperature, "ours": ours, "published": published, "ratio": ratio}
    line["same_tokens"] = float(same.float().mean()) if temperature == 0 else None
    return line | {"target_ratio": TARGETS[decoder][temperature]}
