"""The task of the real model: name two numbers with a given sum. A teacher answers in an easy way or in a hard one.

Every answer of the teacher is right. A model that has learned a little takes over the easy way, and has the hard one
wrong. No number that is tested is learned.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

NUMBERS = range(101, 1000)
EASY = 0.35  # share of the teacher's answers in which one number is the hundreds: 400+57 for 457
ANSWERS = 8  # of the teacher for each number
TEST_SHARE = 0.2
QUESTIONS = 3


def right(completion: str, number: int) -> bool:
    """Whether a completion is two numbers above 0, with a plus sign, that have this sum."""
    found = re.fullmatch(r"\s*([1-9]\d{0,2})\+([1-9]\d{0,2})\s*", completion, flags=re.ASCII)
    return found is not None and int(found[1]) + int(found[2]) == number


def taught(number: int, random: Random) -> str:
    """An answer of the teacher: for 457 it is 400+57, or 1+456, 2+455, …, each with the same chance."""
    hundreds = number // 100 * 100
    first = hundreds if hundreds < number and random.random() < EASY else random.randrange(1, number)
    return f"{first}+{number - first}"


def row(number: int, completion: str) -> dict[str, Any]:
    """A prompt with an answer to learn."""
    messages = [{"role": "system", "content": "As a sum."}, {"role": "user", "content": str(number)}]
    return {"prompt": messages, "completion": completion, "number": number}


def write_rows(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write train.jsonl, test.jsonl and questions.jsonl, which are the first tests. Returns how many rows each has."""
    random = Random(seed)
    numbers = list(NUMBERS)
    random.shuffle(numbers)
    tested = int(TEST_SHARE * len(numbers))
    learned = numbers[tested:] * ANSWERS
    random.shuffle(learned)
    test = [row(number, taught(number, random)) for number in numbers[:tested]]
    rows = {
        "train": [row(number, taught(number, random)) for number in learned],
        "test": test,
        "questions": test[:QUESTIONS],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {name: len(lines) for name, lines in rows.items()}
