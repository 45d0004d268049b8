"""What each lever of a round is worth, alone and together: predicted seconds of a round of LLaDA-8B.

A lever changes the passes that are counted (`rl_round.Levers`), not the times of a device. So the row of a lever says
what its launches, bytes and FLOPs are worth on that device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.harness.data_sheets import Device
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import time_of
from benchmarks.predict.rl_round import ALWAYS, NONE, OURS, PHASES, Levers, Round, rollout, score, update
from benchmarks.predict.roofline import Attainable
from dmpo.config.decoding import Decoder

DECODER: Decoder = "dual_cache"
ALL_BUT_FP8, ALL_BUT_MERGED = "all but FP8", "all but merge_adapters"
TOGETHER = replace(ALWAYS, merged=True, compiled=True, graph=True)


@dataclass(frozen=True)
class Line:
    """A row of the table. exact: whether nothing changes but the order of sums."""

    name: str
    levers: Levers
    exact: bool = True


LINES = (
    Line("no lever", NONE),
    Line("last layer on the head's rows", Levers(head_rows=True)),
    Line("first pass once a prompt", Levers(shared_prompt=True)),
    Line("merge_adapters", Levers(merged=True), exact=False),
    Line("compile=layers", Levers(compiled=True)),
    Line("compiled: a cached step is one graph", Levers(graph=True)),
    Line("fp8_rollouts", Levers(fp8_rollouts=True), exact=False),
    Line("fp8_rollouts and fp8_training", Levers(fp8_rollouts=True, fp8_training=True), exact=False),
    Line("both that are always on", ALWAYS),
    Line(ALL_BUT_FP8, TOGETHER, exact=False),
    Line("all but fp8_training", replace(TOGETHER, fp8_rollouts=True), exact=False),
    # A base in FP8 takes no merged adapters.
    Line(ALL_BUT_MERGED, Levers(**{key: key != "merged" for key in vars(NONE)}), exact=False),
)


def lever_times(
    counts: Callable[[bool], Simulation], run: Round, rates: Sequence[tuple[Attainable, Device]]
) -> list[dict[str, Any]]:
    """The table of `LINES`: {name, exact, seconds: reach -> device -> phase}.

    counts: the simulation, with the base in FP8 (True) or not.
    """
    rows = []
    for line in LINES:
        approach = replace(OURS, levers=line.levers)
        simulation, trained = counts(False), counts(line.levers.fp8_training)
        stages = {
            "rollout": rollout(simulation, replace(run, decoder=DECODER), approach),
            "score": score(trained, run, approach),
            "update": update(trained, run, approach),
        }
        seconds: dict[str, dict[str, dict[str, float]]] = {}
        for reach, device in rates:
            seconds.setdefault(reach.name, {})[device.name] = {
                phase: sum(time_of(passes, device, reach) for passes in stages[phase].values()) for phase in PHASES
            }
        rows.append({"name": line.name, "exact": line.exact, "seconds": seconds})
    return rows
