"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import re
from typing import Any

from ..rewards import gsm8k
from ..rewards.gsm8k_reward import gold_number, gsm8k_answer
from .cells import as_text, shown
from .questions import Questions
from .splits import Row


class GSM8K(Questions):
    """The columns of the data set are `question` and `answer`, which ends in "#### 72". See `Questions`."""

    TRAIN = TEST = "openai/gsm8k:main"
    QUESTION = "question"
    ANSWERS = ("answer",)
    RIGHT_ANSWER = 'a number, or a text that ends in "#### 72"'
    TEMPLATE = (
        "{question}\n\nThink step by step, then give the answer as a number alone. Write exactly in this form:\n"
        "<reasoning>\nyour steps\n</reasoning>\n<answer>\nthe number\n</answer>"
    )

    def answer(self, source: dict[str, Any]) -> str:
        """The number after "####", or the whole column if it is only a number."""
        answer = as_text(source["answer"])
        if answer is None or gold_number(answer) is None:
            raise ValueError(f"column answer must hold {self.RIGHT_ANSWER}, got {shown(source['answer'])}")
        return answer.rpartition("####")[2].strip()

    def steps(self, source: dict[str, Any]) -> str:
        """The text before "####", without the calculator's notes (`<<2*3=6>>`)."""
        return re.sub(r"<<[^<>]*>>", "", str(source["answer"]).rpartition("####")[0]).strip()

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.gsm8k`."""
        return gsm8k(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the answer is exactly the right number."""
        number = gsm8k_answer(completion)
        return number is not None and number == gold_number(row["answer"])

    def parse(self, completion: str, row: Row) -> str | None:
        """The number, as an integer or a fraction."""
        number = gsm8k_answer(completion)
        return None if number is None else str(number)
