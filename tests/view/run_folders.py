"""Folders of runs and files of results as dmpo writes them, made without training, and what a page holds."""

from __future__ import annotations

import base64
import gzip
import json
import math
import random
import re
from pathlib import Path
from typing import Any

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
    "{{content}} ${1} %{y} &amp; \u0000 \u2028 \u202e \ud800 \\u003c/script>"
)


def write_run(
    folder: Path,
    *,
    steps: int = 6,
    seed: int = 0,
    gradient_steps: int = 2,
    logged: int = 4,
    length: int = 8,
    decode_steps: int = 4,
    metrics: int = 0,
    words: tuple[str, ...] = ("1", "2", "3", "4"),
    finished: bool = True,
    keys: dict[str, Any] | None = None,
    **more_keys: Any,
) -> Path:
    """A run with `logged` completions a round in groups of 4, of `length` tokens; `metrics` further numbers a step."""
    numbers = random.Random(seed)
    folder.mkdir(parents=True)

    def drawn() -> dict[str, Any]:
        tokens = [numbers.choice(words) for _ in range(length)]
        order = [place * decode_steps // length for place in range(length)]
        numbers.shuffle(order)
        log_probs = [-numbers.expovariate(2) for _ in tokens]
        return {"completion": "".join(tokens), "tokens": tokens, "order": order, "log_probs": log_probs}

    lines: list[dict[str, Any]] = []
    timings: list[dict[str, Any]] = []
    completions: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        learnt = 1 - math.exp(-3 * step / steps)
        line = {"step": step, "round": (step - 1) // gradient_steps, "learning_rate": 1e-4, "skipped": 0}
        line |= {"loss": numbers.gauss(0, 0.01), "ess": 0.3 + 0.3 * learnt, "reward": learnt + numbers.gauss(0, 0.03)}
        line |= {f"other_{index}": numbers.random() for index in range(metrics)}
        if step % max(1, steps // 3) == 0:
            line |= {"sampled_accuracy": 0.8 * learnt, "greedy_accuracy": 0.9 * learnt}
        lines.append(line)
        timings.append({"step": step, "rollout": numbers.random(), "update": 1.5})
        if (step - 1) % gradient_steps == 0:
            for place in range(logged):
                row = 16 * line["round"] + place
                sample = {"step": step, "row": row, "group": row // 4, "prompt": f"puzzle {row // 4}"}
                values = {"reward": numbers.random(), "weight": numbers.random(), "log_ratio": numbers.gauss(0, 1)}
                completions.append({**sample, **values, **drawn()})
    held_out = [
        {"step": step, "split": "test", "index": index, "prompt": f"held-out {index}", "solved": solved, **drawn()}
        for step, outcomes in ((0, (True, False, True, False)), (steps, (True, True, False, False)))
        for index, solved in enumerate(outcomes[:logged])
    ]
    config = {"model": "sudoku-tiny", "task": "sudoku4", "output_dir": str(folder), "max_steps": steps, "seed": seed}
    config |= {"num_generations": 4, "log_completions": logged, **more_keys, **(keys or {})}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML, too
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "timings.jsonl", timings)
    if logged:
        write_lines(folder / "completions.jsonl", completions)
        write_lines(folder / "held_out.jsonl", held_out if finished else held_out[: len(held_out) // 2])
    if finished:
        write_summary(folder, steps)
    return folder


def write_summary(folder: Path, steps: int) -> None:
    values: dict[str, Any] = {"test_rows": 16, "steps": steps, "seconds": 12.5, "device": "cpu", "torch": "2.13.0"}
    for name in ("sampled", "greedy"):
        for when, value in (("before", 0.25), ("after", 0.75)):
            values |= {f"{name}_accuracy_{when}": value, f"{name}_accuracy_{when}_interval": [value - 0.1, value + 0.1]}
    (folder / "summary.json").write_text(json.dumps(values))


def write_results(path: Path, *, examples: int = 6, samples: int = 1, decoders: tuple[str, ...] = ("topk",)) -> Path:
    """Results of `dmpo eval`: example 0 is never solved, example 1 by every second completion, the others always."""
    lines = []
    for decoder in decoders:
        for index in range(examples):
            for sample in range(samples):
                right = index > 1 or (index == 1 and (sample + decoders.index(decoder)) % 2 == 1)
                line = {"task": "sudoku4", "split": "test", "index": index, "sample": sample, "gen_length": 16}
                line |= {"decoder": decoder, "temperature": 0.0, "seed": 0, "prompt": f"puzzle {index}"}
                line |= {"completion": f"text of {decoder} {index}", "answer": "1234" if right or sample else None}
                line |= {"score": float(right), "failure": None, "tokens": 16, "steps": 4, "columns": {}}
                lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, lines)
    return path


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def content_of(page: Path) -> dict[str, Any]:
    """The data in a page, as its script reads them."""
    packed = re.search(r'id="packed-content">([^<]*)</script>', page.read_text())
    assert packed is not None
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return content


def curve(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The curve of a metric in a page."""
    (found,) = [one for group in content["curves"] for one in group["curves"] if one["name"] == name]
    return dict(found)


def gallery(content: dict[str, Any], name: str = "completions") -> dict[str, Any]:
    """A section of completions in a page."""
    (found,) = [one for one in content["galleries"] if one["id"] == name]
    return dict(found)
