"""Can a completion hurt the four rewards? Ten thousand fuzzed ones go through each: exceptions, seconds, slowest.

    python -m benchmarks.runs.fuzz_rewards [--count 10000] [--seed 0]

A completion is random text, an answer that was damaged, or one made to hurt (towers of powers, a million characters,
surrogates). Each of them goes to each of the rewards, in batches of 64 as in a run; then the completions of the slowest
batch are timed alone. Exit status 1 if a reward raised, returned no valid score, or took longer than its limit for one
completion.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from dmpo import rewards
from dmpo.rewards.math_reward import CPU_LIMIT
from dmpo.rewards.outcomes import failures

BATCH = 64
LIMITS = {"gsm8k": 0.5, "math": CPU_LIMIT + 0.3, "countdown": 0.5, "sudoku": 0.5}  # seconds of one completion
PUZZLE, GRID = "1.34.41221434.21", "1234341221434321"
COLUMNS: dict[str, dict[str, Any]] = {
    "gsm8k": {"answer": "Half of 144 is 72.\n#### 72"},
    "math": {"answer": r"\frac{\sqrt{2}}{2}"},
    "countdown": {"numbers": [3, 5, 2, 75], "target": 24},
    "sudoku": {"puzzle": PUZZLE, "solution": GRID},
}
GOOD = ("72", "8,400", "$18.00", r"\frac{\sqrt{2}}{2}", "(75-3)/(5-2)", "75/5+3*2", GRID, "1234\n3412\n2143\n4321")
PIECES = (
    *(
        "<reasoning>",
        "</reasoning>",
        "<answer>",
        "</answer>",
        r"\boxed{",
        r"\fbox{",
        "{",
        "}",
        "(",
        ")",
        "\n",
        " ",
        "####",
    ),
    *("answer is ", "Answer:", "0", "1", "72", "3.5", "1,234", "1/0", "9" * 50, "1e99", "+", "-", "−", "*", "**", "//"),
    *(
        "/",
        "×",
        "÷",
        "^",
        "^{",
        "_",
        "!",
        "=",
        "%",
        "$",
        "€",
        r"\frac",
        r"\sqrt{",
        r"\sum_{k=1}^{9}",
        r"\int_0^1",
        "x",
        "y",
    ),
    *(
        r"\left(",
        r"\right)",
        r"\pi",
        r"\infty",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        "&",
        r"\text{",
        ",",
        ".",
        ":",
    ),
    *(
        "\x00",
        "\ud800",
        "\udfff",
        "\u202e",
        "１８",
        "٣",
        "\u200b",
        "é",
        "🙂",
        "\r",
        "\t",
        "|",
        "[",
        "]",
        "import os",
        "__",
    ),
)
HOSTILE: tuple[Callable[[Random], str], ...] = (
    lambda random: "97**98**99",
    lambda random: "9^{9^{9}}",
    lambda random: "9^{(9^{9})}",
    lambda random: "(9^{999})^{999}",
    lambda random: "2^{" * random.randint(2, 40) + "2" + "}" * random.randint(2, 40),
    lambda random: "(99999999!)!",
    lambda random: r"\binom{99999999}{49999999}",
    lambda random: r"\prod_{k=1}^{99999999} k^{k}",
    lambda random: "(x+1)^{999}",
    lambda random: "(" * 10_000 + "1" + ")" * 10_000,
    lambda random: "-" * random.choice((30, 250, 10_000)) + "1",
    lambda random: "{" * random.choice((100, 100_000)),
    lambda random: "9" * random.choice((100, 5_000, 1_000_000)),
    lambda random: random.choice(PIECES) * random.choice((100, 20_000)),
    lambda random: "1+" * random.choice((100, 1_000)) + "1",
    lambda random: r"\frac{1}{" * random.choice((5, 30, 100)) + "2" + "}" * 30,
    lambda random: r"\sqrt{" * random.choice((5, 30, 100)) + "2" + "}" * 30,
)


def fuzzed(random: Random) -> str:
    """A completion: mostly small damage to good answers and soups of what parsers stumble over, some of it hostile."""
    kind = random.random()
    if kind < 0.05:
        text = random.choice(HOSTILE)(random)
    elif kind < 0.5:
        text = "".join(random.choices(PIECES, k=random.randint(0, 30)))
    elif kind < 0.6:
        text = "".join(chr(random.randrange(0x110000)) for _ in range(random.randint(0, 60)))
    else:
        pieces = list(random.choice(GOOD))
        for _ in range(random.randint(0, 3)):
            pieces.insert(random.randint(0, len(pieces)), random.choice(PIECES))
            pieces.pop(random.randrange(len(pieces)))
        text = "".join(pieces)
    wrap = random.random()
    if wrap < 0.3:
        return f"<reasoning>\nso\n</reasoning>\n<answer>\n{text}\n</answer>"
    if wrap < 0.5:
        return f"<reasoning>so</reasoning><answer>\\boxed{{{text}}}</answer>"
    return f"\\boxed{{{text}}}" if wrap < 0.7 else text


def run(name: str, completions: list[str]) -> dict[str, Any]:
    """Scores of all completions by one reward, batch by batch; what was wrong, and how long it took."""
    reward = getattr(rewards, name)
    problems, slowest, timeouts, start = [], (0.0, 0), 0, time.perf_counter()
    for place in range(0, len(completions), BATCH):
        batch = completions[place : place + BATCH]
        began = time.perf_counter()
        try:
            with failures() as failed:
                scores = reward(batch, **{k: [v] * len(batch) for k, v in COLUMNS[name].items()})
            if len(scores) != len(batch) or not all(isinstance(s, float) and math.isfinite(s) for s in scores):
                problems.append(f"no scores: {scores!r}")
            timeouts += len(failed)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        slowest = max(slowest, (time.perf_counter() - began, place))
    seconds = time.perf_counter() - start
    alone = []
    for text in completions[slowest[1] : slowest[1] + BATCH]:
        began = time.perf_counter()
        reward([text], **{k: [v] for k, v in COLUMNS[name].items()})
        alone.append((time.perf_counter() - began, text))
    worst, text = max(alone)
    return {"seconds": seconds, "slowest": worst, "text": text, "timeouts": timeouts, "problems": problems}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    completions = [fuzzed(random) for _ in range(arguments.count)]
    good = True
    print(f"{'reward':<10} {'seconds':>8} {'slowest':>8} {'limit':>6} {'timeouts':>8}  slowest completion")
    for name, limit in LIMITS.items():
        result = run(name, completions)
        print(
            f"{name:<10} {result['seconds']:8.1f} {result['slowest']:8.3f} {limit:6.1f} {result['timeouts']:8}  "
            f"{result['text'][:60]!a} ({len(result['text'])} characters)"
        )
        for problem in result["problems"][:5]:
            print(f"  {problem}")
        good &= not result["problems"] and result["slowest"] <= limit
    print("no exception, every call within its limit" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
