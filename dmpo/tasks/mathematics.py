"""MATH: competition problems with an answer in LaTeX (Hendrycks et al., arXiv 2103.03874). The test set is MATH-500."""

from __future__ import annotations

from typing import Any

from ..rewards import math
from ..rewards.answers import gold_of_solution
from ..rewards.math_reward import math_answer, math_correct
from .cells import as_text, shown
from .questions import Questions
from .splits import Row
from .templates import worked_example


class Mathematics(Questions):
    r"""The data sets have the columns `problem` and `answer`, or `problem` and a `solution` with a \boxed.

    The training split is MATH's own 7,500 problems; MATH-500 is 500 of its 5,000 test problems. For arguments see
    `Questions`.
    """

    TRAIN = "DigitalLearningGmbH/MATH-lighteval"
    TEST = "HuggingFaceH4/MATH-500"
    QUESTION = "problem"
    ANSWERS = ("answer", "solution")
    RIGHT_ANSWER = r"an answer in LaTeX or a number, or a solution that ends in \boxed{...}"
    TEMPLATE = (
        "{question}\n\nThink step by step, then give the answer in LaTeX in a \\boxed{}. Write exactly in this form:\n"
        "<reasoning>\nyour steps\n</reasoning>\n<answer>\n\\boxed{the answer}\n</answer>"
    )

    def answer(self, source: dict[str, Any]) -> str:
        """The column `answer`; if it is empty, the boxes in the column `solution`. Several boxes give a list, `1,9`."""
        answer = as_text(source.get("answer"))
        if answer is None:
            answer = gold_of_solution(str(source.get("solution") or ""))
        if not answer:
            columns = [f"column {name}: {shown(source[name])}" for name in self.ANSWERS if name in source]
            raise ValueError(f"no right answer in {', '.join(columns)}; the row must have {self.RIGHT_ANSWER}")
        return answer

    def steps(self, source: dict[str, Any]) -> str:
        """The column `solution`."""
        return str(source.get("solution") or "").strip()

    def demonstrate(self, row: Row) -> str:
        """A perfect completion of a row, with the answer in a box."""
        return worked_example(row["solution"], f"\\boxed{{{row['answer']}}}")

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.math`."""
        return math(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the answer is equivalent to the right one."""
        return math_correct([completion], [row["answer"]])[0]

    def parse(self, completion: str, row: Row) -> str | None:
        """The LaTeX of the answer."""
        return math_answer(completion)
