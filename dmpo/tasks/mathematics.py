"""MATH: competition problems with an answer in LaTeX (Hendrycks et al., arXiv 2103.03874), tested on MATH-500."""

from __future__ import annotations

from typing import Any

from ..rewards import math
from ..rewards.answers import gold_of_solution
from ..rewards.mathematics import math_answer, math_correct
from .questions import Questions, as_text, shown
from .splits import Row
from .templates import worked


class Mathematics(Questions):
    r"""Columns of the data sets: `problem`, and `answer` or a `solution` with a \boxed. See `Questions`.

    The training split is MATH's own 7,500 problems; MATH-500 is 500 of its 5,000 test problems.
    """

    TRAIN = "DigitalLearningGmbH/MATH-lighteval"
    TEST = "HuggingFaceH4/MATH-500"
    QUESTION = "problem"
    ANSWERS = ("answer", "solution")
    WANTED = r"an answer in LaTeX or a number, or a solution that ends in \boxed{...}"
    TEMPLATE = (
        "{question}\n\nThink step by step, then give the answer in LaTeX in a \\boxed{}. Write exactly in this form:\n"
        "<reasoning>\nyour steps\n</reasoning>\n<answer>\n\\boxed{the answer}\n</answer>"
    )

    def answer(self, source: dict[str, Any]) -> str:
        """The column `answer`; where that is empty, what the column `solution` boxes: of several a list, `1,9`."""
        answer = as_text(source.get("answer"))
        if answer is None:
            answer = gold_of_solution(str(source.get("solution") or ""))
        if not answer:
            given = [f"column {name}: {shown(source[name])}" for name in self.ANSWERS if name in source]
            raise ValueError(f"no right answer in {', '.join(given)}; wanted is {self.WANTED}")
        return answer

    def steps(self, source: dict[str, Any]) -> str:
        """The column `solution`."""
        return str(source.get("solution") or "").strip()

    def demonstrate(self, row: Row) -> str:
        """A perfect completion of a row, its answer in a box."""
        return worked(row["solution"], f"\\boxed{{{row['answer']}}}")

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.math`."""
        return math(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Equivalent to the right answer."""
        return math_correct([completion], [row["answer"]])[0]

    def parse(self, completion: str, row: Row) -> str | None:
        """The LaTeX of the answer."""
        return math_answer(completion)
