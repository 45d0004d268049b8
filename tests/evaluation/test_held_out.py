"""If these fail, the accuracies that a run reports are wrong for its model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from scipy import stats

from dmpo import DMPOConfig
from dmpo.evaluation.held_out import Evaluation, evaluate
from dmpo.evaluation.intervals import Accuracy, MeanReward
from dmpo.pretrain import character_tokenizer
from dmpo.rewards import RewardPool
from dmpo.run.plots import plot_run
from dmpo.run.report import example_index, summarise
from dmpo.tasks import load_task
from tests.tiny_models import tiny


def config(**changes: Any) -> DMPOConfig:
    values: dict[str, Any] = {"model": "", "task": "sudoku4", "output_dir": "", "gen_length": 16, "block_length": 16}
    values |= {"steps": 4, "early_stop": False, "eval_prompts": 10, "eval_temperature": 1.0, "max_prompt_length": 16}
    return DMPOConfig(**(values | changes))


def model() -> Any:
    return tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)


@pytest.mark.parametrize(("solved", "total"), [(0, 10), (3, 10), (10, 10), (140, 256)])
def test_wilson_interval(solved: int, total: int) -> None:
    expected = stats.binomtest(solved, total).proportion_ci(0.95, method="wilson")
    low, high = Accuracy(solved, total).interval()
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_completions_do_not_depend_on_batches_or_ranks(batch_size: int) -> None:
    policy, tokenizer, task = model(), character_tokenizer(), load_task("sudoku4")
    whole = evaluate(policy, tokenizer, task, config(), split="test")
    shares = [
        evaluate(policy, tokenizer, task, config(rollout_batch_size=batch_size), split="test", rank=r, world=3)
        for r in range(3)
    ]
    assert sum(share.sampled.total for share in shares) == whole.sampled.total == 10
    for r, share in enumerate(shares):
        assert share.rows == whole.rows[r::3]
        assert share.completions == whole.completions[r::3]
    assert sum(vars(share.sampled)["solved"] for share in shares) == vars(whole.sampled)["solved"]
    samples = sorted((sample for share in shares for sample in share.samples), key=lambda sample: sample["index"])
    assert [sample["index"] for sample in samples] == [0, 1, 2, 3]
    for index, (sample, row) in enumerate(zip(samples, whole.rows[:4], strict=True)):
        assert sample["completion"] == "".join(sample["tokens"]) == whole.completions[index]
        assert (sample["split"], sample["prompt"]) == ("test", row["prompt"])
        assert sample["solved"] == task.solved(sample["completion"], row)
        assert sample["order"] == whole.samples[index]["order"]
        assert sample["log_probs"] == pytest.approx(whole.samples[index]["log_probs"], abs=2e-4)


def test_solved_rows_are_counted() -> None:
    class Always:
        def __init__(self) -> None:
            self.inner = load_task("sudoku4")
            self.row, self.reward, self.show = self.inner.row, self.inner.reward, self.inner.show

        def solved(self, completion: str, row: dict[str, Any]) -> bool:
            return row["puzzle"].count(".") % 2 == 0

    task: Any = Always()
    evaluation = evaluate(model(), character_tokenizer(), task, config(), split="test")
    even = sum(load_task("sudoku4").row("test", i)["puzzle"].count(".") % 2 == 0 for i in range(10))
    assert evaluation.sampled == evaluation.greedy == Accuracy(even, 10)


class Unjudged:
    """A finite task that cannot say what is solved. Seven rows of test."""

    judges = False

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[index % 4], "digit": "1234"[index % 7 % 4]}

    def size(self, split: str) -> int:
        return 7

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        raise AssertionError("it has no verdict")


def test_without_a_verdict_the_mean_reward_counts() -> None:
    """Every row counts once, and each completion is rewarded with the columns of its own row."""

    def score(completions: list[str], digit: list[str], **columns: Any) -> list[float]:
        return [text.count(one) / 16 for text, one in zip(completions, digit, strict=True)]

    task, pool = Unjudged(), RewardPool(score)
    result = evaluate(model(), character_tokenizer(), task, config(), pool, split="test")  # type: ignore[arg-type]
    rows = [task.row("test", index) for index in range(7)]
    expected = score(result.completions, [row["digit"] for row in rows])
    assert result.rows == rows
    assert result.greedy == MeanReward.of(expected)
    assert result.metrics() == {"sampled_reward": result.sampled.mean, "greedy_reward": sum(expected) / 7}
    assert len(set(expected)) > 1
    assert [(sample["solved"], sample["reward"]) for sample in result.samples] == [(None, r) for r in expected[:4]]
    assert Evaluation.from_counts(result.counts(), rows) == dataclasses.replace(result, samples=[])
    summary = summarise(result, result)
    assert summary["test_rows"] == 7
    assert summary["greedy_reward_after"] == sum(expected) / 7
    assert summary["greedy_reward_after_interval"] == list(result.greedy.interval())
    assert not any("accuracy" in key for key in summary)
    other = dataclasses.replace(result, completions=[*result.completions[:2], "x", *result.completions[3:]])
    assert example_index(result, other, task) == 2  # type: ignore[arg-type]
    assert example_index(result, result, task) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the task cannot say what is solved, so its evaluation needs a reward"):
        evaluate(model(), character_tokenizer(), task, config(), split="test")  # type: ignore[arg-type]


def evaluation(completions: list[str], sampled: int) -> Evaluation:
    task = load_task("sudoku4")
    rows = [task.row("test", i) for i in range(len(completions))]
    greedy = sum(task.solved(c, row) for c, row in zip(completions, rows, strict=True))
    return Evaluation(Accuracy(sampled, len(rows)), Accuracy(greedy, len(rows)), rows, completions)


def test_summary_and_example() -> None:
    task = load_task("sudoku4")
    right = [task.row("test", i)["solution"] for i in range(4)]
    before, after = evaluation([right[0], "x", "y", right[3]], 1), evaluation(right, 3)
    summary = summarise(before, after)
    assert summary["sampled_accuracy_before"] == 0.25
    assert summary["sampled_accuracy_after"] == 0.75
    assert summary["greedy_accuracy_before"] == 0.5
    assert summary["greedy_accuracy_after"] == 1
    assert example_index(before, after, task) == 1
    assert example_index(after, after, task) is None


def test_show_marks_what_is_wrong() -> None:
    task = load_task("sudoku4")
    row = {"puzzle": "1.34.41221434.21", "solution": "1234341221434321"}
    drawn = task.show("1334341221434321", row)
    assert drawn.count("red") == 1
    assert drawn.count("green") == 2
    hostile = task.show("[bold]x[/oops]", row)
    assert Text.from_markup(hostile).plain == "not a grid: '[bold]x[/oops]'"


@pytest.mark.parametrize("measure", ["accuracy", "reward"])
def test_plot(tmp_path: Path, measure: str) -> None:
    level = {"ess": 0.5, "entropy": 1.0, f"sampled_{measure}": 0.5, "tokens_per_forward": 4.0, "rollout_mismatch": 0.1}
    metrics = [{"step": s, "reward": s / 9, "log_ratio": 0.1 * s, **level} for s in range(1, 9)]
    ends = {f"{name}_{measure}_{when}": 0.5 for name in ("sampled", "greedy") for when in ("before", "after")}
    summary = ends | {"steps": 8}
    plot_run(metrics, [{"step": 1, "rollout": 2.0, "update": 3.0}], summary, "a run", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
