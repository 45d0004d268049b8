"""Completions as the cards of the page: beside each other those of one prompt, with their numbers and their tokens.

A gallery is {title, remark, filters, numbers, orders, groups, prompts}. filters: {name, label} of what a reader may
choose by; numbers: {name, label, meaning}; orders: what the order of the groups is called, and its reverse. A group is
{heading, prompt, cards}, its prompt an index of `prompts`. A card is {heading, verdict, labels, numbers, notes, text,
tokens, order, log_probs}: a label for each filter, a number for each of the numbers. tokens, order and log_probs are
absent where a file has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config.kinds import kind_of_keys
from ..config.sft import SFTConfig
from .run_files import Run
from .values import number_of, text_of, whole_of

MOST_COMPLETIONS = 4_000  # that a page holds
MOST_TOKENS = 4_096  # of a completion
_LONGEST_TOKEN = 200
NUMBERS = (
    ("reward", "reward", "the reward of the completion"),
    ("weight", "weight", "importance weight within the group; the weights of a whole group sum to 1"),
    ("log_ratio", "log-ratio", "log p_cur − log p_ref, nats: above 0 the policy likes it better than the reference"),
)


class Prompts:
    """Prompts, each stored once."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def index(self, value: Any) -> int:
        return self.texts.setdefault(text_of(value), len(self.texts))


def rollout_gallery(runs: Sequence[Run], most: int = MOST_COMPLETIONS) -> dict[str, Any]:
    """The logged completions of runs, newest step first; of more than `most` some rounds are left out, evenly."""
    prompts, chosen = Prompts(), [_choose(run.rounds, max(1, most // len(runs))) for run in runs]
    by_group: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for source, (run, rounds) in enumerate(zip(runs, chosen, strict=True)):
        for (step, group, _), line in zip(rounds, run.completions(rounds), strict=True):
            if line is not None:
                by_group.setdefault((step, source, group), []).append(line)
    parts = list(dict.fromkeys(name for lines in by_group.values() for line in lines for name in _rewards(line)))
    numbers = [*NUMBERS, *((f"reward/{name}", name, f"the reward {name} alone") for name in parts)]
    groups = []
    for (step, source, group), lines in sorted(by_group.items(), key=lambda item: (-item[0][0], *item[0][1:])):
        cards = [_rollout_card(line, runs[source].name, step, numbers) for line in lines]
        where = f"{runs[source].name} · " if len(runs) > 1 else ""
        heading = f"{where}step {step} · group {group}"
        prompt = prompts.index(lines[0].get("prompt", ""))
        groups.append({"heading": heading, "source": source, "prompt": prompt, "cards": cards})
    total, shown = sum(len(run.rounds) for run in runs), sum(map(len, chosen))
    return {
        "title": "Completions",
        "remark": f"{shown:,} of {total:,} logged completions, evenly over the steps" if shown < total else "",
        "filters": [{"name": "run", "label": "run"}, {"name": "step", "label": "step"}],
        "numbers": [dict(zip(("name", "label", "meaning"), number, strict=True)) for number in numbers],
        "orders": ["newest step first", "oldest step first"],
        "groups": groups,
        "prompts": list(prompts.texts),
    }


def why_no_completions(run: Run) -> str | None:
    """Why a run has no completions to show; None if it has some, or if a run of its kind never has any."""
    if run.rounds or kind_of_keys(run.config) is SFTConfig:
        return None
    if run.config.get("log_completions") == 0:
        return f"{run.path} has no completions, because it was trained with log_completions=0"
    if not run.metrics:
        return f"{run.path} has no completions yet, because it has taken no step"
    return f"{run.path} has no completions: its completions.jsonl is absent or empty"


def _choose(rounds: Sequence[tuple[int, int, int]], most: int) -> list[tuple[int, int, int]]:
    """Whole groups of evenly spaced steps, the first and the last among them, about `most` lines in all."""
    if len(rounds) <= most:
        return list(rounds)
    steps = list(dict.fromkeys(step for step, _, _ in rounds))
    count = max(2, len(steps) * most // len(rounds))
    kept = {steps[round(number * (len(steps) - 1) / (count - 1))] for number in range(count)}
    return [place for place in rounds if place[0] in kept]


def _rewards(line: Mapping[str, Any]) -> dict[str, Any]:
    rewards = line.get("rewards")
    return rewards if isinstance(rewards, dict) else {}


def _rollout_card(line: dict[str, Any], run: str, step: int, numbers: Sequence[Sequence[str]]) -> dict[str, Any]:
    values = {f"reward/{name}": value for name, value in _rewards(line).items()}
    row = whole_of(line.get("row"))
    failure = line.get("failure")
    return {
        "heading": "" if row is None else f"completion {row}",
        "labels": [run, str(step)],
        "numbers": [number_of(values.get(name, line.get(name)), digits=5) for name, *_ in numbers],
        "notes": [f"the reward failed on it: {text_of(failure, 500)}"] if failure else [],
        **body(line),
    }


def body(line: Mapping[str, Any]) -> dict[str, Any]:
    """text of a line, and its tokens, order and log_probs if the line has all of them, one for each token."""
    content: dict[str, Any] = {"text": text_of(line.get("completion", ""))}
    tokens, order, log_probs = (line.get(name) for name in ("tokens", "order", "log_probs"))
    if not (isinstance(tokens, list) and isinstance(order, list) and isinstance(log_probs, list)):
        return content
    if not len(tokens) == len(order) == len(log_probs) or not all(whole_of(step) is not None for step in order):
        return content
    if len(tokens) > MOST_TOKENS:
        content["more_tokens"] = len(tokens) - MOST_TOKENS
    content["tokens"] = [text_of(token, _LONGEST_TOKEN) for token in tokens[:MOST_TOKENS]]
    content["order"] = order[:MOST_TOKENS]
    content["log_probs"] = [number_of(value, digits=4) for value in log_probs[:MOST_TOKENS]]
    return content
