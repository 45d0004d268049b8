"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import re
from typing import Any

from ..rewards import gsm8k
from ..rewards.numbers import gold_number, gsm8k_answer
from .questions import Questions, as_text, shown
from .splits import Row


class GSM8K(Questions):
    """Columns of the data set: `question`, and `answer`, which ends in "#### 72". See `Questions` for the arguments."""

    TRAIN = TEST = "openai/gsm8k:main"
    QUESTION = "question"
    ANSWERS = ("answer",)
    WANTED = 'a number, or a text that ends in "#### 72"'
    TEMPLATE = (
        "{question}\n\nThink step by step, then give the answer as a number alone. Write exactly in this form:\n"
        "<reasoning>\nyour steps\n</reasoning>\n<answer>\nthe number\n</answer>"
    )

    def answer(self, source: dict[str, Any]) -> str:
        """What follows "####", or the number that is all of it."""
        answer = as_text(source["answer"])
        if answer is None or gold_number(answer) is None:
            raise ValueError(f"column answer: states no number: {shown(source['answer'])}; wanted is {self.WANTED}")
        return answer.rpartition("####")[2].strip()

    def steps(self, source: dict[str, Any]) -> str:
        """What precedes "####", without the calculator's notes (`<<2*3=6>>`)."""
        return re.sub(r"<<[^<>]*>>", "", str(source["answer"]).rpartition("####")[0]).strip()

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.gsm8k`."""
        return gsm8k(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Exactly the right number."""
        found = gsm8k_answer(completion)
        return found is not None and found == gold_number(row["answer"])

    def parse(self, completion: str, row: Row) -> str | None:
        """The number, as an integer or a fraction."""
        found = gsm8k_answer(completion)
        return None if found is None else str(found)
