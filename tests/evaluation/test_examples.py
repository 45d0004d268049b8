"""If these fail, examples see other prompts than they say, or rows of the wrong split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo.evaluation.examples import draw_shots, load_examples
from dmpo.evaluation.keys import EvalConfig
from dmpo.models.tokenizer import encode_prompt
from dmpo.pretrain import character_tokenizer
from dmpo.tasks import load_task
from tests.evaluation.toys import Ones, Plain


def config(**changes: Any) -> EvalConfig:
    values: dict[str, Any] = {"model": "", "tasks": ["sudoku4"], "output_dir": "", "limit": 4}
    return EvalConfig(**(values | changes))


class Splits(Ones):
    """Remembers which splits it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: set[str] = set()

    def row(self, split: str, index: int) -> dict[str, Any]:
        self.asked.add(split)
        return super().row(split, index)


def test_shots_are_train_rows_fixed_by_the_seed() -> None:
    task = Splits(rows=9)
    shots = draw_shots("ones", task, config(shots=3))
    assert task.asked == {"train"}
    assert shots == draw_shots("ones", task, config(shots=3, limit=9))
    assert shots != draw_shots("ones", task, config(shots=3, seed=1))
    assert len(dict(shots)) == 3
    assert all(completion == "1" * len(prompt) for prompt, completion in shots)
    sudoku = load_task("sudoku4")
    assert draw_shots("sudoku4", sudoku, config(shots=2))[0][1].isdecimal()


def test_every_example_has_the_same_shots_before_its_prompt() -> None:
    task, tokenizer = Splits(rows=9), character_tokenizer()
    told = load_examples("ones", task, tokenizer, config(shots=2, limit=None), 200)
    assert task.asked == {"train", "test"}
    assert len(told.examples) == 9
    before = [token for shot in told.shots for text in shot for token in tokenizer(text)["input_ids"]]
    for index, example in enumerate(told.examples):
        assert example.row == task.row("test", index)
        own = tokenizer(example.row["prompt"])["input_ids"]
        ids = [token for token in example.ids if token is not None]
        assert ids[-len(own) :] == own
        assert [token for token in ids[: -len(own)] if token in before] == before
    assert told.template_hash != load_examples("ones", task, tokenizer, config(limit=None), 200).template_hash


def test_shots_are_turns_where_there_is_a_chat_template() -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '.' if m['role'] == 'user' else '..' }}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}..{% endif %}"
    )
    shots = [("1", "2"), ("11", "22")]
    assert tokenizer.decode(encode_prompt(tokenizer, {"prompt": "33"}, 99, shots)) == ".1..2.11..22.33.."


def test_shape_depends_on_the_prompt_alone() -> None:
    told = load_examples("ones", Ones(), character_tokenizer(), config(limit=24), 200)
    shapes = {len(example.ids): example.shape for example in told.examples}
    assert shapes[1] == (16, False)
    assert shapes[16] == (16, True)
    assert shapes[17] == (32, False)


@pytest.mark.parametrize(
    ("task", "changes", "limit", "message"),
    [
        (Ones(), {"limit": None}, 99, "has no last row: set eval_prompts=N"),
        (Ones(rows=0), {}, 99, "has 0 rows of test"),
        (Ones(), {}, 5, "example ones 1: prompt has 6 tokens, must be 1 to max_prompt_length 5"),
        (Ones(rows=5), {"shots": 6}, 99, "shots must be at most 5, the different train prompts"),
        (Plain(), {"shots": 1}, 99, r"no demonstrate\(row\)"),
    ],
)
def test_what_cannot_be(task: Any, changes: dict[str, Any], limit: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_examples("ones", task, character_tokenizer(), config(**changes), limit)
