"""If these fail, a reward of one's own does not reach training, or its failures stop or poison a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.small_runs import CountOnes, lines, settings, trainer


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def test_a_named_reward_with_failures(tmp_path: Path) -> None:
    """The reward kills its process on completions with a 2 in them; the others are paid, and the run ends well."""
    config = settings(tmp_path, reward="tests.rewards.misbehaving:ones_or_end", max_steps=4, eval_steps=0)
    trainer(config).train()
    told = lines(tmp_path)
    assert [line["step"] for line in told] == [1, 2, 3, 4]
    failures = [line["reward_failures"] for line in told]
    assert all(0 < count < 16 for count in failures), "of 16 completions of four tokens some have a 2, some have not"
    assert all(math.isfinite(line["loss"]) and line["reward"] > 0 for line in told)
    paid = lines(tmp_path, "completions.jsonl")
    assert paid
    assert all(row["reward"] == (0.0 if "2" in row["completion"] else row["completion"].count("1") + 1) for row in paid)


def test_an_exception_amid_a_run_is_no_end(tmp_path: Path) -> None:
    calls = []

    def moody(completions: list[str], **columns: object) -> list[float]:
        calls.append(len(completions))
        if len(calls) in (2, 4):  # the first batch of the first round, in the thread and then in the main thread
            raise ConnectionError("the judge is away")
        return CountOnes().reward(completions)

    trainer(settings(tmp_path, max_steps=4, eval_steps=0), reward=moody).train()
    assert calls == [2, 8, 8, 8, *[1] * 8, 8, 8], "after that each completion of the batch is asked for alone"
    assert all(line["reward_failures"] == 0 for line in lines(tmp_path)), "each was scored at the second try"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "tests.rewards.misbehaving:wrong_count"}, "reward wrong_count returned 1 values for 2 completions"),
        ({"reward": "tests.rewards.misbehaving:nothing"}, "'tests.rewards.misbehaving:nothing' cannot be imported"),
        ({"reward": "misbehaving"}, "must be named 'module:name'"),
    ],
)
def test_a_wrong_reward_is_refused_before_any_work(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(settings(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="reward_timeout must be > 0, got 0"):
        settings(tmp_path, reward_timeout=0)
