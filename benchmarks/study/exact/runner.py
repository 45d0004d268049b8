"""One run of the exact study, and its record."""

from __future__ import annotations

import time

import torch

from benchmarks.study.records import Record
from benchmarks.study.runner import provenance

from .conditions import Condition
from .instances import INSTANCES
from .measures import Measures, log_policy_of
from .training import Run

POINTS = 12  # of a curve


def run(condition: Condition, seed: int) -> Record:
    """Train once; the record has the measures at the start, at points evenly spaced, and at the end."""
    torch.set_num_threads(1)
    start, core, steps = time.perf_counter(), time.process_time(), condition.steps
    instance = INSTANCES[condition.instance]
    training = Run(instance, condition.changes | {"max_steps": steps}, seed, condition.scores)
    target = instance.target(training.log_ref)
    rounds = steps // training.config.gradient_steps
    curve = []
    for point in range(POINTS + 1):
        training.train(rounds * point // POINTS * training.config.gradient_steps)
        measures = Measures.of(log_policy_of(training.model), target, instance)
        curve.append({"completions": training.completions, "forwards": training.forwards, **measures.rounded()})
    return {
        "condition": condition.name,
        "seed": seed,
        "config": condition.settings(),
        "model": "random",
        "target": Measures.of(target, target, instance).rounded(),
        "curve": curve,
        "seconds": round(time.perf_counter() - start),
        "core_seconds": round(time.process_time() - core),
        "made": provenance(),
    }
