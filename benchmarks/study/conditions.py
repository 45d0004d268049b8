"""The runs of the study: the settings of its tasks, the objectives with their learning rates, and named conditions.

A condition is a whole config without a seed. Conditions that several questions share are run once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dmpo.config import DMPOConfig
from dmpo.config.files import build_config

# By task: rounds of a run, and completions of each; evaluations on the validation split; seconds of a run on one core.
SIZES = {"sudoku": (12, 32), "countdown": (12, 128), "hard": (32, 128)}
EVALUATIONS = {"sudoku": 3, "countdown": 3, "hard": 4}
SECONDS = {"sudoku": 44, "countdown": 55, "hard": 140}
VALIDATION_ROWS, TEST_ROWS = 96, 256
SEEDS = (0, 1, 2, 3, 4)
SCAN_SEED = 100  # of the scan for learning rates; no reported seed

_SHARED: dict[str, Any] = {
    "dtype": "float32",
    "lora_r": 0,
    "temperature": 1.0,
    "eval_temperature": 1.0,
    "early_stop": False,
    "rollout_batch_size": 256,
    "micro_batch_size": 256,
    "alpha": 0.1,
    "replicates": 2,
    "score_views": 2,
    "gradient_steps": 2,
    "warmup_steps": 4,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "log_completions": 0,
    "save_steps": 0,
}
TASKS: dict[str, dict[str, Any]] = {
    "sudoku": _SHARED
    | {
        "model": "sudoku-tiny",
        "task": "sudoku4",
        "max_prompt_length": 16,
        "gen_length": 16,
        "block_length": 16,
        "steps": 4,
    },
    "countdown": _SHARED
    | {
        "model": "countdown-tiny",
        "task": "countdown",
        "task_options": {
            "counts": [3],
            "largest": 9,
            "largest_target": 99,
            "signs": "+-*",
            "held_out": 10,
            "template": "{numbers}={target}",
        },
        "max_prompt_length": 9,
        "gen_length": 8,
        "block_length": 8,
        "steps": 4,
    },
}
# Puzzles with more holes than the model learned from: a base that rarely succeeds, and runs that are long.
TASKS["hard"] = TASKS["sudoku"] | {
    "task_options": {"min_holes": 13, "max_holes": 14},
    "reward": "benchmarks.study.rewards:units_complete",
    "lr_scheduler_type": "linear",
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "negative": {},  # the paper's: WDCE, negative baseline of strength 1
    "none": {"baseline": "none"},
    "mean": {"baseline": "mean"},
    "theta": {"baseline": "theta"},
    # Two independent halves, each a pair of complements. The weights of a group sum to 1, so its mean of w·log σ is 1/G
    # of what α_d = 1 sets against it; α_d = 1/G balances the two.
    "wddo": {"loss": "wddo", "replicates": 4, "wddo_alpha": 1.0},
    "wddo 1/G": {"loss": "wddo", "replicates": 4, "wddo_alpha": 0.125},
    "wd1": {"loss": "wd1"},  # this one and the next as released, except for two prompt masks a step instead of one
    "diffu_grpo": {"loss": "diffu_grpo"},
}
# By task and objective: the rates that its scan tries, and the best of them, which every other run takes. A test holds
# the choice to the records.
SCANS: dict[str, dict[str, tuple[float, ...]]] = {
    "sudoku": {
        **dict.fromkeys(("negative", "mean"), (5e-5, 1e-4, 2e-4, 4e-4)),
        **dict.fromkeys(("none", "theta"), (1e-4, 2e-4, 4e-4)),
        "wddo": (1e-5, 5e-5),
        **dict.fromkeys(("wddo 1/G", "wd1"), (1e-4, 2e-4, 4e-4)),
        "diffu_grpo": (1e-4, 2e-4, 4e-4, 8e-4),
    },
    "countdown": {
        "negative": (2e-4, 4e-4, 8e-4),
        "none": (1e-4, 2e-4, 4e-4),
        **dict.fromkeys(("wddo 1/G", "wd1"), (2e-4, 4e-4, 8e-4)),
        "diffu_grpo": (1e-4, 2e-4, 4e-4, 8e-4),
    },
    "hard": {"negative": (2.5e-5, 5e-5, 1e-4, 2e-4), "none": (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)},
}
LEARNING_RATES: dict[str, dict[str, float]] = {
    "sudoku": {
        "negative": 1e-4,
        "none": 2e-4,
        "mean": 1e-4,
        "theta": 2e-4,
        "wddo": 1e-5,
        "wddo 1/G": 2e-4,
        "wd1": 2e-4,
        "diffu_grpo": 4e-4,
    },
    "countdown": {"negative": 4e-4, "none": 2e-4, "wddo 1/G": 4e-4, "wd1": 4e-4, "diffu_grpo": 2e-4},
    "hard": {"negative": 5e-5, "none": 4e-4},
}


@dataclass(frozen=True)
class Condition:
    """One setting of a task.

    name: unique, `task/...`. objective: key of OBJECTIVES. changes: config keys, over the objective's and the task's.
    group: completions of a prompt; a round has as many as SIZES says, whatever the group.
    """

    name: str
    objective: str = "negative"
    group: int = 8
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.name.partition("/")[0]

    def config(self, seed: int, output_dir: str) -> DMPOConfig:
        """The whole config.

        Raises:
            ValueError: as `DMPOConfig` for keys or values that it does not take.
        """
        values = TASKS[self.task] | OBJECTIVES[self.objective]
        values |= {"learning_rate": LEARNING_RATES[self.task][self.objective], **self.changes}
        (rounds, completions), steps = SIZES[self.task], values["gradient_steps"]
        values |= {"num_generations": self.group, "num_prompts": completions // self.group}
        values |= {"max_steps": rounds * steps, "eval_steps": max(1, rounds // EVALUATIONS[self.task]) * steps}
        return build_config(DMPOConfig, values | {"seed": seed, "output_dir": output_dir})

    def evaluation(self, split: str) -> DMPOConfig:
        """The config that decodes held-out rows: its decoder is the task's, whatever drew the rollouts."""
        rows = TEST_ROWS if split == "test" else VALIDATION_ROWS
        return build_config(DMPOConfig, TASKS[self.task] | {"eval_prompts": rows, "output_dir": "unused"})

    def settings(self) -> dict[str, Any]:
        """The settings of a record, without the seed: keys that are not at their defaults, and `evaluation`."""
        test = self.evaluation("test")
        names = ("decoder", "steps", "block_length", "eval_temperature")
        evaluation = {name: getattr(test, name) for name in names}
        evaluation |= {f"{split}_rows": self.evaluation(split).eval_prompts for split in ("validation", "test")}
        return non_default(self.config(0, "unused")) | {"evaluation": evaluation}


def non_default(config: DMPOConfig) -> dict[str, Any]:
    """The keys of a config that are not at their defaults, except for seed and folder."""
    values, changed = dataclasses.asdict(config), {}
    for item in dataclasses.fields(config):
        usual = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if item.name not in ("seed", "output_dir") and values[item.name] != usual:
            changed[item.name] = values[item.name]
    return changed


def default(task: str, group: int = 8, objective: str = "negative") -> str:
    """Name of the condition of an objective and a group size, all else being the task's setting."""
    return f"{task}/{objective} G={group}"


def at_lower_rate(group: int) -> str:
    """Name of the condition of question regime without a baseline, at LOWER_RATE."""
    return f"{default('hard', group, 'none')} at {LOWER_RATE}"


def scan_name(task: str, objective: str, rate: float) -> str:
    """Name of a condition of the scan for learning rates."""
    return f"{task}/scan {objective} {rate:g}"


def scan_conditions() -> dict[str, Condition]:
    """One run each, of seed SCAN_SEED: every objective of every task at every rate."""
    found = [
        Condition(scan_name(task, objective, rate), objective, changes={"learning_rate": rate})
        for task, objectives in SCANS.items()
        for objective, rates in objectives.items()
        for rate in rates
    ]
    return by_name(found)


def by_name(found: Iterable[Condition]) -> dict[str, Condition]:
    """Conditions by name; raises ValueError where two have the same."""
    named: dict[str, Condition] = {}
    for condition in found:
        if named.setdefault(condition.name, condition) is not condition:
            raise ValueError(f"two conditions are called {condition.name!r}")
    return named


BASELINES, GROUPS = ("none", "mean", "negative", "theta"), (4, 8, 16)  # question baseline
RIVALS = ("negative", "none", "wddo 1/G", "wd1", "diffu_grpo")  # questions loss and countdown
HARD_BASELINES, HARD_GROUPS = ("none", "negative"), (4, 16)  # question regime
# Without a baseline and with G = 4, the best rate of the scan, which is with G = 8, breaks the policy down.
LOWER_RATE = "1e-4"
# Question reuse: gradient steps a round, and rounds kept. Of 12·F steps the first 4 warm up, whatever F is.
REUSE: dict[str, dict[str, Any]] = {
    "F=1": {"gradient_steps": 1},
    "F=4": {"gradient_steps": 4},
    "F=8": {"gradient_steps": 8},
    "F=1 at 2e-4": {"gradient_steps": 1, "learning_rate": 2e-4},  # F times the rate is the usual setting's
    "F=4 at 5e-5": {"gradient_steps": 4, "learning_rate": 5e-5},
    "F=2 K=4": {"buffer_rounds": 4},
}
# Question coefficient: the proximal coefficient, and the ESS that chooses it for each group.
COEFFICIENTS: dict[str, dict[str, Any]] = {
    "c=0.5": {"coeff": 0.5},
    "c=0.25": {"coeff": 0.25},
    "ESS=0.3": {"ess_target": 0.3},
    "ESS=0.6": {"ess_target": 0.6},
}
# Question decoder: decoders of the rollouts alone; the setting's is topk in 4 steps, 4 tokens a forward.
DECODERS: dict[str, dict[str, Any]] = {
    "topk 16 steps": {"steps": 16},
    "topk 2 steps": {"steps": 2},
    "wino": {"decoder": "wino", "steps": 16},
    "parallel 0.9": {"decoder": "parallel", "threshold": 0.9, "steps": 16},
    "dual_cache 0.9": {"decoder": "dual_cache", "threshold": 0.9, "steps": 16, "block_length": 8},
}


def conditions() -> dict[str, Condition]:
    """Every condition that is reported, by name."""
    found = [Condition(default("sudoku", group, name), name, group) for name in BASELINES for group in GROUPS]
    found += [Condition(default("sudoku", 8, name), name) for name in RIVALS if name not in BASELINES]
    found += [
        Condition("sudoku/none G=8 at 1e-4", "none", changes={"learning_rate": 1e-4}),
        Condition("sudoku/negative G=8 at 2e-4", changes={"learning_rate": 2e-4}),
    ]
    found += [Condition(default("countdown", 8, name), name) for name in RIVALS]
    found += [Condition(default("hard", group, name), name, group) for name in HARD_BASELINES for group in HARD_GROUPS]
    found += [
        Condition(at_lower_rate(group), "none", group, {"learning_rate": float(LOWER_RATE)}) for group in HARD_GROUPS
    ]
    for table in (REUSE, COEFFICIENTS, DECODERS):
        found += [Condition(f"sudoku/{name}", changes=changes) for name, changes in table.items()]
    return by_name(found)
