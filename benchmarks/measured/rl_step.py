"""What does a whole RL step cost (rollout, reward, scoring, update), in time and memory, beside the published approach?

    python -m benchmarks --only rl [--device cuda]

A LLaDA with the real vocabulary (V = 126464), random weights and LoRA; on a CPU d = 128, 2 layers, 2 prompts of 32
tokens with 4 completions of 64 each, 16 decoding steps at T = 0.2, 4 views under two policies, and 4 gradient steps on
4 fresh views. Ours is what a training run calls: `dmpo.rollouts.rollout.collect` and
`dmpo.objectives.gradient.accumulate_gradient`. Published is baselines/rl_step.py, on the same model, task, shapes and
batch sizes. Each side has a process of its own. It makes a small step first and then one step that counts; seconds are
wall clock. Memory is the peak of each phase above the memory before both steps, of the resident set or, on a GPU, of
PyTorch's allocator.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.baselines.rl_step import published_collect, published_update
from benchmarks.harness.chart import BLUE, GREY, figure
from benchmarks.harness.child import in_own_process
from benchmarks.harness.clock import Phases, gauge
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import Setting, about
from benchmarks.measured.decoders import LARGE, QUICK, TINY
from dmpo.config import DMPOConfig
from dmpo.models import new_model
from dmpo.objectives.gradient import accumulate_gradient, objective_of
from dmpo.rewards import RewardPool, sudoku
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.policy import ReferencePolicy, make_policy
from dmpo.rollouts.rollout import collect
from dmpo.tasks import Sudoku4

PHASES = ("rollout", "reward", "score", "update")
SIDES = ("ours", "published")
DIFFERENCES = """Not the same on the two sides: the draws, and so the completions, come from different random numbers;
ours also computes what a run logs (entropy, mismatch of rollout and likelihood) and keeps the order of tokens.
Given the same completions both have the same loss and gradient, which tests/benchmarks/test_rl_step.py checks.
Early stop is off on both; rewards differ, so that no view has a coefficient of 0."""


@dataclass(frozen=True)
class Size:
    model: dict[str, Any]
    settings: dict[str, Any]


COMMON: dict[str, Any] = {"model": "", "task": "sudoku4", "output_dir": "", "early_stop": False, "lora_dropout": 0.0}
DEFAULTS = ("temperature", "score_views", "replicates")  # of the config; the report gives them with the settings
SIZES = {
    "cpu": Size(
        TINY,
        {
            "dtype": "float32",
            "lora_r": 16,
            "num_prompts": 2,
            "num_generations": 4,
            "gen_length": 64,
            "block_length": 32,
            "steps": 16,
            "gradient_steps": 4,
            "rollout_batch_size": 8,
            "micro_batch_size": 8,
        },
    ),
    "cuda": Size(
        LARGE,
        {
            "dtype": "bfloat16",
            "lora_r": 128,
            "num_prompts": 2,
            "num_generations": 8,
            "gen_length": 256,
            "block_length": 32,
            "steps": 128,
            "gradient_steps": 8,
            "rollout_batch_size": 8,
            "micro_batch_size": 4,
        },
    ),
    "quick": Size(
        QUICK,
        {
            "dtype": "float32",
            "lora_r": 2,
            "num_prompts": 1,
            "num_generations": 2,
            "gen_length": 8,
            "block_length": 4,
            "steps": 4,
            "gradient_steps": 1,
            "rollout_batch_size": 2,
            "micro_batch_size": 4,
        },
    ),
}


def make_tokenizer(vocab: int, mask_id: int, eos_id: int) -> PreTrainedTokenizerFast:
    """One token a character; ids beyond ASCII are words that no text contains."""
    words = {chr(32 + i) if i < 95 else f"<{i}>": i for i in range(vocab) if i not in (mask_id, eos_id)}
    tokenizer = Tokenizer(models.WordLevel(words | {"<mask>": mask_id, "<eos>": eos_id}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", mask_token="<mask>", padding_side="left"
    )


def distinct_reward(completions: list[str], **columns: list[Any]) -> list[float]:
    """The task's reward, which random weights never earn, plus a number in [0, 1) from the text.

    Equal rewards would give every view a coefficient of 0, and ours leaves such rows out.
    """
    digests = (zlib.crc32(text.encode()) / 2**32 for text in completions)
    return [earned + digest for earned, digest in zip(sudoku(completions, **columns), digests, strict=True)]


class Bench:
    """A policy with its optimiser, task and reward; both sides make their steps on it."""

    def __init__(self, setting: Setting) -> None:
        size = SIZES[setting.size]
        self.config = DMPOConfig(**COMMON, **size.settings)
        self.mask_id = size.model["mask_id"]
        self.tokenizer = make_tokenizer(size.model["vocab_size"], self.mask_id, size.model["eos_id"])
        self.task = Sudoku4(template="Solve 4x4 grid: {puzzle}")
        self.reward = RewardPool(distinct_reward)
        model: Any = new_model(**size.model).to(getattr(torch, self.config.dtype))
        self.policy = make_policy(self.config, setting.place, model)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, self.config.learning_rate)
        self.accelerator = Accelerator(cpu=setting.place.type == "cpu")
        self.reference = ReferencePolicy(self.policy)

    def ours(self, config: DMPOConfig, clock: Phases) -> tuple[Batch, float]:
        """Rollouts and the loss of the last gradient step."""
        batch = collect(
            self.accelerator,
            model=self.policy,
            reference=self.reference,
            tokenizer=self.tokenizer,
            task=self.task,
            reward=self.reward,
            objective=objective_of(config),
            config=config,
            round_index=0,
            clock=clock,
        )
        with clock("update"):
            for step in range(config.gradient_steps):
                loss = accumulate_gradient(self.accelerator, self.policy, self.policy, batch, config, step).loss
                torch.nn.utils.clip_grad_norm_(self.trainable, config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return batch, loss

    def published(self, config: DMPOConfig, clock: Phases) -> tuple[Batch, float]:
        batch = published_collect(self.policy, self.tokenizer, self.task, self.reward, config, clock)
        with clock("update"):
            for step in range(config.gradient_steps):
                actors = (self.policy, self.trainable, self.optimizer)
                loss = published_update(*actors, batch, config, self.mask_id, step)
        return batch, loss


def run_side(setting: Setting, side: str) -> dict[str, Any]:
    """One process's share: {"phases": {phase: {"seconds", "bytes"}}, "loss", "reward", "tokens"}."""
    bench, on = Bench(setting), gauge(setting)
    step: Callable[[DMPOConfig, Phases], tuple[Batch, float]] = getattr(bench, side)
    clock = Phases(on)
    small: dict[str, Any] = {"num_prompts": 1, "num_generations": 2, "gradient_steps": 1, "replicates": 2}
    small |= {"score_views": 2, "gen_length": bench.config.block_length, "steps": 2}
    # Compiles, allocates and starts threads; a GPU's kernels are compiled for the shapes that count.
    step(bench.config if setting.size == "cuda" else dataclasses.replace(bench.config, **small), clock)
    clock.clear()
    batch, loss = step(bench.config, clock)
    tokens = batch.completions.tokens
    return {"phases": clock.stop(), "loss": loss, "reward": float(batch.rewards.mean()), "tokens": tokens.numel()}


def measure(setting: Setting) -> dict[str, Any]:
    found = {side: in_own_process(run_side, setting, side=side) for side in SIDES}
    for side in found.values():
        side["seconds"] = sum(phase["seconds"] for phase in side["phases"].values())
        side["bytes"] = max(phase["bytes"] for phase in side["phases"].values())
    size = SIZES[setting.size]
    config = DMPOConfig(**COMMON, **size.settings)
    ours, published = (found[side] for side in SIDES)
    return {
        "model": size.model,
        "settings": COMMON | size.settings | {key: getattr(config, key) for key in DEFAULTS},
        **found,
        "times_faster": published["seconds"] / ours["seconds"],
        "times_faster_by_phase": {
            name: published["phases"][name]["seconds"] / ours["phases"][name]["seconds"] for name in PHASES
        },
        "times_leaner": max(published["bytes"], 1) / max(ours["bytes"], 1),
    }


def markdown(results: dict[str, Any]) -> str:
    settings, model = results["settings"], results["model"]
    lines = [
        f"# A whole RL step, timed on {results['header']['device']}",
        "",
        f"Ours is {results['times_faster']:.1f} times faster than the published approach and holds "
        f"1/{results['times_leaner']:.0f} of its memory at the peak.",
        "",
        about(results),
        "",
        f"V = {model['vocab_size']}, d = {model['hidden_size']}, {model['num_layers']} layers, {settings['dtype']}, "
        f"LoRA r = {settings['lora_r']}; {settings['num_prompts']} prompts × {settings['num_generations']} completions "
        f"of {settings['gen_length']} tokens, blocks of {settings['block_length']}, {settings['steps']} decoding steps "
        f"at T = {settings['temperature']:g}; {settings['score_views']} views for scores, {settings['gradient_steps']} "
        f"gradient steps on {settings['replicates']} views each.",
        "",
    ]
    rows = []
    for name in PHASES:
        ours, published = (results[side]["phases"][name] for side in SIDES)
        rows.append(_row(name, ours, published, results["times_faster_by_phase"][name]))
    rows.append(_row("**all**", results["ours"], results["published"], results["times_faster"]))
    head = ["phase", "ours s", "published s", "times faster", "ours peak MB", "published peak MB"]
    return "\n".join([*lines, table(head, rows), "", DIFFERENCES]) + "\n"


def _row(name: str, ours: dict[str, Any], published: dict[str, Any], ratio: float) -> list[str]:
    megabytes = [f"{side['bytes'] / 1e6:.0f}" for side in (ours, published)]
    return [name, f"{ours['seconds']:.2f}", f"{published['seconds']:.2f}", f"{ratio:.1f}", *megabytes]


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds and peak bytes of each phase, as bars on logarithmic axes."""
    title = f"An RL step, V = {results['model']['vocab_size']}, {results['header']['device']}"
    with figure(path, 1, 2, size=(11, 4.2), title=title) as (time, memory):
        for offset, side, colour in ((-0.2, "published", GREY), (0.2, "ours", BLUE)):
            phases = results[side]["phases"]
            for axes, key, unit in ((time, "seconds", 1.0), (memory, "bytes", 1e-6)):
                values = [max(phases[name][key] * unit, 1e-4) for name in PHASES]
                bars = axes.bar([i + offset for i in range(len(PHASES))], values, 0.4, color=colour, label=side)
                axes.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=8)
        for axes, label in ((time, "seconds"), (memory, "peak MB above the model")):
            axes.set_xticks(range(len(PHASES)), PHASES)
            axes.set_yscale("log")
            axes.set_ylabel(label)
        time.legend(frameon=False)
