"""Question: what do FP8 products of the frozen base do to log-probabilities, `rollout_mismatch` and accuracy?

    python -m benchmarks.runs.fp8

Two parts, on embedded models, emulated on a CPU, one thread. Nothing here says how fast FP8 is.

- Scores: completions of the untrained model in float32. The log-probability of each token on its own path, in FP8 and,
  as a yardstick, in bfloat16, minus the one in float32; and `rollout_mismatch` of rollouts drawn in FP8, minus the one
  of rollouts drawn in float32 with the same random numbers.
- Training: short LoRA runs with neither switch, with fp8_rollouts, and with both. All are evaluated alike: the adapters
  on the float32 base, without FP8.

Differences are between runs of one seed; intervals are 95 % t intervals over seeds. Results:
benchmarks/results/cpu-1-thread/fp8.json and fp8.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import RESULTS
from benchmarks.harness.setting import Load, Setting, about, header
from benchmarks.study.conditions import TASKS
from benchmarks.study.statistics import Mean
from dmpo import DMPOConfig, DMPOTrainer
from dmpo.decoding import Generation
from dmpo.evaluation.held_out import Evaluation, evaluate
from dmpo.models.masked_lm import special_ids
from dmpo.models.tokenizer import encode_prompts, load_tokenizer
from dmpo.randomness import derive_key
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import ordered_log_probs
from dmpo.rollouts.policy import make_policy, rollout_model
from dmpo.rollouts.rollout import complete, training_row
from dmpo.rollouts.scoring import rollout_mismatch, score_log_prob
from dmpo.tasks import load_task

Results = dict[str, Any]
SWITCHES: dict[str, dict[str, bool]] = {
    "neither": {},
    "fp8_rollouts": {"fp8_rollouts": True},
    "both": {"fp8_rollouts": True, "fp8_training": True},
}
TRAINED_TASK = "sudoku"
SEEDS = (0, 1, 2, 3, 4)
PROMPTS = 32  # of the scores of one seed, a completion each
TRAINING: dict[str, Any] = {
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "learning_rate": 1e-3,
    "num_prompts": 4,
    "num_generations": 8,
    "max_steps": 12,
    "eval_steps": 0,
    "eval_prompts": 256,
}
CURVES = ("rollout_mismatch", "log_ratio", "reward", "grad_norm")


def config_of(task: str, seed: int, folder: str = "unused", **changes: Any) -> DMPOConfig:
    """The study's setting of a task, with the changes."""
    return DMPOConfig(**{**TASKS[task], "seed": seed, "output_dir": folder, **changes})


# ---------------------------------------------------------------------------------------------- scores


def scores(task: str, seed: int) -> dict[str, float]:
    """Errors of log-probabilities, nats a token, and the difference of `rollout_mismatch`, for one seed."""
    plain = config_of(task, seed)
    narrow = dataclasses.replace(plain, fp8_rollouts=True)
    policy = make_policy(plain, "cpu").eval().requires_grad_(False)
    half = make_policy(dataclasses.replace(plain, dtype="bfloat16"), "cpu").eval()
    rows = [training_row(load_task(plain.task, **plain.task_options), seed, index) for index in range(PROMPTS)]
    prompts, mask = encode_prompts(load_tokenizer(plain.model), rows, plain.max_prompt_length)
    row_ids = torch.arange(PROMPTS)

    def draw(model: nn.Module) -> tuple[Completions, Generation]:
        key = derive_key(seed, "rollout")
        drawn = complete(
            model, prompts, mask, row_ids, plain, temperature=plain.temperature, steps=plain.steps, seed=key
        )
        tokens = drawn.sequences[:, prompts.shape[1] :]
        return Completions(prompts, mask, tokens, torch.ones_like(tokens).bool()), drawn

    def mismatch(completions: Completions, drawn: Generation) -> Tensor:
        return rollout_mismatch(drawn, completions.eligible, score_log_prob(policy, completions, row_ids, plain))

    def log_probs(model: nn.Module) -> Tensor:
        mask_id, _ = special_ids(model)
        return ordered_log_probs(model, completions, drawn.order, mask_id=mask_id, batch_size=PROMPTS * plain.steps)

    with torch.no_grad():
        completions, drawn = draw(policy)
        exact, in_half = log_probs(policy), log_probs(half)
        with rollout_model(policy, narrow) as model:
            narrow_draw = draw(model)
            in_fp8 = log_probs(model)
        return {
            "mean |error|, FP8": float((in_fp8 - exact).abs().mean()),
            "mean |error|, bfloat16": float((in_half - exact).abs().mean()),
            "mean error, FP8": float((in_fp8 - exact).mean()),
            "mean error, bfloat16": float((in_half - exact).mean()),
            "rollout_mismatch, float32": float(mismatch(completions, drawn).mean()),
            "rollout_mismatch, FP8 minus float32": float(
                mismatch(*narrow_draw).mean() - mismatch(completions, drawn).mean()
            ),
            "share of tokens that FP8 draws otherwise": float(
                (narrow_draw[0].tokens != completions.tokens).double().mean()
            ),
        }


# ---------------------------------------------------------------------------------------------- training


class EvaluatedPlainly(DMPOTrainer):
    """A run whose two evaluations decode its adapters on the base of the config's dtype, without FP8.

    The evaluation before training is the same for every run, and made once.
    """

    _start: ClassVar[Evaluation | None] = None

    def _evaluate(self, split: str) -> Evaluation:
        if self.step:
            return self._evaluate_plainly(split)
        if EvaluatedPlainly._start is None:
            EvaluatedPlainly._start = self._evaluate_plainly(split)
        return EvaluatedPlainly._start

    def _evaluate_plainly(self, split: str) -> Evaluation:
        plain = dataclasses.replace(self.config, fp8_rollouts=False, fp8_training=False)
        twin = make_policy(plain, "cpu")
        trained = {name: weight for name, weight in self.policy.named_parameters() if weight.requires_grad}
        missing, unknown = twin.load_state_dict(trained, strict=False)
        assert not unknown
        assert not any("lora_" in name for name in missing)
        return evaluate(twin, self.tokenizer, self.task, plain, split=split)


def run(switches: str, seed: int, scratch: Path) -> dict[str, float]:
    """One run: accuracies on the test split, and means over its steps."""
    folder = scratch / f"{switches}-{seed}"
    config = config_of(TRAINED_TASK, seed, str(folder), **TRAINING, **SWITCHES[switches])
    summary = EvaluatedPlainly(config).train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = {f"{name}": sum(line[name] for line in lines) / len(lines) for name in CURVES}
    accuracies = {name: summary[name] for name in ("sampled_accuracy_before", "sampled_accuracy_after")}
    return accuracies | {name: summary[name] for name in ("greedy_accuracy_before", "greedy_accuracy_after")} | figures


# ---------------------------------------------------------------------------------------------- results


def measure(seeds: list[int], folder: Path) -> Results:
    """What is missing in the results of `folder`: first the scores of every seed, then whole seeds of runs.

    Raises:
        ValueError: the results there are of other settings.
    """
    setting, load = Setting("cpu", threads=1), Load()
    setting.begin()
    logging.getLogger("dmpo").setLevel(logging.ERROR)  # the same line of every run: FP8 is emulated
    settings = TASKS[TRAINED_TASK] | TRAINING
    path, results = folder / "fp8.json", Results({"training": settings, "scores": {}, "runs": {}})
    if path.exists():
        results = json.loads(path.read_text())
        if results["training"] != settings:
            raise ValueError(f"{path} has runs of other settings; delete it to run them again")
    folder.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results["header"] = header(setting, "python -m benchmarks.runs.fp8", load)
        path.write_text(json.dumps(results, indent=1) + "\n")
        (folder / "fp8.md").write_text(markdown(results))

    for seed in seeds:
        for task in TASKS:
            of_task = results["scores"].setdefault(task, {})
            if str(seed) not in of_task:
                of_task[str(seed)] = scores(task, seed)
                save()
    for seed in seeds:
        if str(seed) not in results["runs"]:
            with tempfile.TemporaryDirectory() as scratch:
                results["runs"][str(seed)] = {name: run(name, seed, Path(scratch)) for name in SWITCHES}
            save()
    return results


def markdown(results: Results) -> str:
    """Tables of means and intervals over seeds, from the results alone."""
    lines = [
        "# FP8 products of the frozen base",
        "",
        about(results),
        "",
        "Emulated: no figure here is of speed. Means over seeds with 95 % t intervals. An interval that holds 0 shows "
        "no difference, and does not show that there is none.",
        "",
        *_score_lines(results["scores"]),
    ]
    if results["runs"]:
        lines += ["", *_run_lines(results["runs"], results["training"])]
    return "\n".join(lines) + "\n"


def _score_lines(of_scores: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    names = next(iter(next(iter(of_scores.values())).values()))
    rows = [
        [
            name,
            *(_text(Mean.of([of_seed[name] for of_seed in of_task.values()]), ".4f") for of_task in of_scores.values()),
        ]
        for name in names
    ]
    seeds = max(len(of_task) for of_task in of_scores.values())
    head = ["", *(str(TASKS[task]["model"]) for task in of_scores)]
    return [f"## Scores of the untrained models, nats a token, {seeds} seeds", "", table(head, rows)]


def _run_lines(runs: dict[str, dict[str, dict[str, float]]], training: dict[str, Any]) -> list[str]:
    of_switches = {name: [of_seed[name] for of_seed in runs.values()] for name in SWITCHES}
    before = of_switches["neither"][0]
    rows = []
    for name in before:
        if name.endswith("_before"):
            continue
        form = ".3f" if "accuracy" in name else ".4f"
        plain = [of_run[name] for of_run in of_switches["neither"]]
        changes = [
            Mean.of([of_run[name] - other for of_run, other in zip(of_switches[switches], plain, strict=True)])
            for switches in list(SWITCHES)[1:]
        ]
        rows.append([name, _text(Mean.of(plain), form), *(_text(change, "+" + form) for change in changes)])
    title = f"## Short LoRA runs on {TASKS[TRAINED_TASK]['model']}, {training['max_steps']} steps, {len(runs)} seeds"
    text = (
        f"{training['eval_prompts']} test puzzles, decoded on the float32 base without FP8. Before training "
        f"{before['sampled_accuracy_before']:.3f} sampled and {before['greedy_accuracy_before']:.3f} greedy."
    )
    head = ["", "neither", *(f"{name} minus neither" for name in list(SWITCHES)[1:])]
    return [title, "", text, "", table(head, rows)]


def _text(mean: Mean, form: str) -> str:
    if mean.low is None or mean.high is None:
        return f"{mean.value:{form}}"
    return f"{mean.value:{form}} [{mean.low:{form}}, {mean.high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    results = measure(options.seeds, RESULTS / Setting("cpu", threads=1).slug)
    print(markdown(results))


if __name__ == "__main__":
    main()
