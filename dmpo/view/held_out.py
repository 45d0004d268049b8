"""Greedy completions of the same held-out prompts before, during and after training, as the cards of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .completions import Prompts, body
from .run_files import Run
from .values import whole_of

CHANGES = ("wrong → right", "right → wrong", "wrong → wrong", "right → right", "right", "wrong", "not judged")


def held_out_gallery(runs: Sequence[Run], most: int) -> dict[str, Any]:
    """Greedy completions of the same held-out prompts before, during and after training, wrong → right first."""
    prompts = Prompts()
    by_prompt: dict[tuple[str, int, int], dict[int, list[dict[str, Any]]]] = {}
    for source, run in enumerate(runs):
        for line in run.held_out:
            index = whole_of(line.get("index"))
            if index is not None:
                key = (str(line.get("split")), index, prompts.index(line.get("prompt", "")))
                by_prompt.setdefault(key, {}).setdefault(source, []).append(line)
    lines_of_prompt = max((sum(map(len, of_runs.values())) for of_runs in by_prompt.values()), default=1)
    shown = dict(list(by_prompt.items())[: max(1, most // lines_of_prompt)])
    groups = []
    for (split, index, prompt), of_runs in shown.items():
        cards, changes = [], []
        for source, lines in of_runs.items():
            lines.sort(key=lambda line: line["step"])
            changes.append(change := _change(lines))
            name = runs[source].name if len(runs) > 1 else ""
            labels = [runs[source].name, split, change]
            cards += [
                {**_held_out_card(line, runs[source], name), "source": source, "labels": labels} for line in lines
            ]
        rank = min(CHANGES.index(change) for change in changes)
        group = {"heading": f"{split} prompt {index} · {CHANGES[rank]}", "prompt": prompt, "cards": cards}
        groups.append((rank, split, index, group))
    groups.sort(key=lambda group: group[:3])
    of = f"; {len(shown):,} of {len(by_prompt):,} prompts" if len(shown) < len(by_prompt) else ""
    return {
        "title": "Before and after",
        "remark": f"greedy completions of the same held-out prompts{of}",
        "filters": [{"name": name, "label": name} for name in ("run", "split", "change")],
        "numbers": [],
        "orders": ["wrong → right first", "right → right first"],
        "groups": [group for *_, group in groups],
        "prompts": list(prompts.texts),
    }


def why_no_held_out(runs: Sequence[Run]) -> list[str]:
    """A line for each run without held-out completions: why it has none."""
    reasons = []
    for run in runs:
        if run.held_out:
            continue
        zero = run.config.get("log_completions") == 0
        why = "it was trained with log_completions=0" if zero else "its held_out.jsonl is absent or empty"
        reasons.append(f"{run.path} has no held-out completions, because {why}")
    return reasons


def _change(lines: Sequence[Mapping[str, Any]]) -> str:
    verdicts = [line.get("solved") for line in (lines[0], lines[-1])]
    if None in verdicts:  # the task cannot say what is right
        return "not judged"
    words = ["right" if verdict else "wrong" for verdict in verdicts]
    return " → ".join(words) if len(lines) > 1 else words[0]


def _held_out_card(line: dict[str, Any], run: Run, name: str) -> dict[str, Any]:
    step = line["step"]
    when = "before, step 0" if step == 0 else f"step {step}"
    if step and line.get("split") == "test" and run.is_finished:
        when = f"after, step {step}"
    heading = " · ".join(filter(None, (name, when)))
    solved = line.get("solved")
    verdict = None if solved is None else bool(solved)
    return {"heading": heading, "verdict": verdict, "numbers": [], "notes": [], **body(line)}
