"""The runs of the exact study, by question. A condition is an instance with a whole config, without a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Condition:
    """One setting. changes: config keys over `training.USUAL`; scores: of `training.SCORES`; completions: of a run."""

    name: str
    instance: str
    completions: int
    changes: dict[str, Any] = field(default_factory=dict)
    scores: str = "elbo"

    def settings(self) -> dict[str, Any]:
        """Of its record."""
        return {
            "instance": self.instance,
            "scores": self.scores,
            "completions": self.completions,
            **self.changes,
        }

    @property
    def steps(self) -> int:
        """Gradient steps of a run."""
        per_round = self.changes.get("num_generations", 256) * self.changes.get("num_prompts", 1)
        return self.completions // per_round * int(self.changes.get("gradient_steps", 1))


@dataclass(frozen=True)
class Question:
    """A table and a picture: its conditions side by side, each with these seeds."""

    key: str
    title: str
    conditions: tuple[Condition, ...]
    seeds: tuple[int, ...] = (2, 3, 4, 5, 6)


FAST = {"num_generations": 256, "gradient_steps": 2, "learning_rate": 5e-3, "lr_scheduler_type": "cosine"}
_SMALL = {"num_generations": 128, "gradient_steps": 2, "learning_rate": 5e-3, "lr_scheduler_type": "cosine"}
_ON_PATH: dict[str, Any] = {"loss": "wdce_path"}
_ONE_STEP: dict[str, Any] = {"prompt_mask_rate": 0.0, "replicates": 1}


def _small(name: str, scores: str = "elbo", **changes: Any) -> Condition:
    return Condition(f"additive, {name}", "additive", 7_680, {**_SMALL, **changes}, scores)


def _fast(name: str, scores: str = "elbo", instance: str = "additive", **changes: Any) -> Condition:
    prefix = "" if instance == "additive" else f"{instance}, "
    return Condition(prefix + name, instance, 15_360, {**FAST, **changes}, scores)


def _graded(name: str, scores: str = "elbo", **changes: Any) -> Condition:
    return Condition(f"graded, {name}", "graded", 51_200, {**FAST, "learning_rate": 3e-3, **changes}, scores)


NONE = _fast("none")
RECOMMENDED = Condition(
    "to the target",
    "additive",
    51_200,
    {**FAST, "learning_rate": 3e-3, "score_views": 16, "replicates": 8},
)
SHORT = Condition("K = R = 4, three quarters as long", "additive", 38_400, {**FAST, "learning_rate": 3e-3})
QUESTIONS: tuple[Question, ...] = (
    Question(
        "target",
        "WDCE without a baseline: does it arrive? (400 gradient steps with 3e-3, K = 16, R = 8)",
        (RECOMMENDED, SHORT),
    ),
    Question(
        "strength",
        "Which baseline is fast and still keeps the target?",
        (
            NONE,
            *(_fast(name, baseline=name) for name in ("mean", "negative", "theta")),
            _fast("path loss, none", "path", **_ON_PATH),
            _fast("path loss, theta", "path", **_ON_PATH, baseline="theta"),
        ),
    ),
    Question(
        "loss",
        "Which loss reaches the target?",
        (
            NONE,
            _fast("wddo 1/G", loss="wddo", wddo_alpha=1 / 256),
            _fast("rspo", loss="rspo"),
            _fast("tb", loss="tb"),
            _fast("wd1", loss="wd1", **_ONE_STEP),
            _fast("diffu_grpo", loss="diffu_grpo", **_ONE_STEP),
        ),
    ),
    Question(
        "views",
        "Better views at equal forwards (K = R = 4), where each completion has a reward of its own and where none has",
        (
            NONE,
            _fast("stratified", view_rates="stratified"),
            _fast("gauss", view_rates="gauss", antithetic=False),
            _graded("none", baseline="none"),
            _graded("stratified", view_rates="stratified", baseline="none"),
            _graded("gauss", view_rates="gauss", antithetic=False, baseline="none"),
        ),
    ),
    Question(
        "answers",
        "Eight right answers: how many are kept?",
        (
            *(_fast(name, instance="answers", baseline=name) for name in ("none", "negative", "theta")),
            _fast("tb", instance="answers", loss="tb"),
            _fast("wd1", instance="answers", loss="wd1", **_ONE_STEP),
        ),
    ),
    Question(
        "graded",
        "A reward of its own for every completion, so that nothing carries over from one to the next (3e-3)",
        (
            *(_graded(name, baseline=name) for name in ("none", "negative", "theta")),
            *(_graded(f"path loss, {name}", "path", **_ON_PATH, baseline=name) for name in ("none", "theta")),
        ),
    ),
    Question(
        "settings",
        "One setting changed",
        (
            NONE,
            _fast("G = 64", num_generations=64),
            _fast("F = 4", gradient_steps=4),
            _fast("R = 8", replicates=8),
            _fast("K = 16", score_views=16),
            _fast("c = 0.5", coeff=0.5),
            _fast("topk, 2 steps", decoder="topk", steps=2),
        ),
    ),
    Question(
        "small",
        "Half as many completions a round (G = 128): where the search for a baseline began",
        (
            *(_small(baseline, baseline=baseline) for baseline in ("none", "mean", "negative", "theta")),
            _small("negative 0.5", baseline="negative", strength=0.5),
            *(_small(f"{scores} weights", scores) for scores in ("path", "exact")),
            *(_small(f"{baseline}, path weights", "path", baseline=baseline) for baseline in ("mean", "theta")),
            *(
                _small(f"path loss, {baseline}", "path", **_ON_PATH, baseline=baseline)
                for baseline in ("none", "mean", "theta")
            ),
        ),
        (0, 1),
    ),
)


def conditions() -> dict[str, Condition]:
    """All conditions by name; raises ValueError where two that differ have one name."""
    named: dict[str, Condition] = {}
    for condition in (condition for question in QUESTIONS for condition in question.conditions):
        if named.setdefault(condition.name, condition) != condition:
            raise ValueError(f"two conditions are called {condition.name!r}")
    return named
