"""Small local files in the schemas of the real data sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def gsm8k_rows(count: int, start: int = 0) -> list[Row]:
    """As openai/gsm8k, main: question, answer with calculator notes and "#### N"."""
    return [
        {
            "question": f"Ann has {n} boxes of 1,000 pens. How many pens has she?",
            "answer": f"She has {n} * 1000 = <<{n}*1000={n * 1000}>>{n * 1000} pens.\n#### {n * 1000:,}",
        }
        for n in range(start + 2, start + count + 2)
    ]


def math_rows(count: int, start: int = 0) -> list[Row]:
    """As MATH's training split: problem, level, type, solution with a boxed answer."""
    return [
        {
            "problem": f"What is half of ${n}$?",
            "level": "Level 1",
            "type": "Prealgebra",
            "solution": f"Divide by 2 to get $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
        }
        for n in range(start + 3, start + count + 3)
    ]


def math500_rows(count: int, start: int = 100) -> list[Row]:
    """As HuggingFaceH4/MATH-500: problem, solution, answer, subject, level, unique_id."""
    return [
        {
            "problem": row["problem"],
            "solution": row["solution"],
            "answer": f"\\frac{{{n}}}{{2}}",
            "subject": "Prealgebra",
            "level": 1,
            "unique_id": f"test/prealgebra/{n}.json",
        }
        for n, row in enumerate(math_rows(count, start), start + 3)
    ]


def countdown_rows(count: int, start: int = 0) -> list[Row]:
    """As Jiayi-Pan/Countdown-Tasks-3to4: target, nums; three and four numbers in turn."""
    rows = []
    for n in range(start + 1, start + count + 1):
        nums = [n, n + 1, 2, 3][: 3 + n % 2]
        rows.append({"target": sum(nums), "nums": nums})
    return rows


def write(path: Path, rows: list[Row]) -> str:
    """The rows as a file of the format that its name ends in."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {n} + 1?", "gold": str(n + 1), "level": n % 3} for n in range(start, start + count)]
