"""If these fail, a reward of one's own does not reach training, or its failures stop or poison a run."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy
import pytest

from dmpo import DMPOConfig
from dmpo.config import load_config
from dmpo.run.plots import plot_run
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


def equal(completions: list[str], digit: list[int]) -> Any:
    return numpy.array([text == str(value) for text, value in zip(completions, digit, strict=True)])


def picky(completion: str) -> float | None:
    if "3" in completion:
        raise KeyError("three")
    return None if "2" in completion else 0.5


def values_of(text: str) -> dict[str, float]:
    values = {"fair": float(len(text)), "equal": 0.0, "picky": 0.0 if "3" in text else 0.5}
    return {name: value for name, value in values.items() if name != "picky" or "3" in text or "2" not in text}


def test_several_rewards(tmp_path: Path) -> None:
    """Names and functions, with a buffer; each completion's line has its own values, and metrics have their moments."""
    weights = [0.5, 2.0, -1.0]
    config = settings(tmp_path, max_steps=4, eval_steps=0, buffer_rounds=2, log_completions=16, reward_weights=weights)
    given: list[Any] = ["tests.rewards.misbehaving:fair", equal, picky]
    trainer(config, rewards=given).train()
    completions = lines(tmp_path, "completions.jsonl")
    assert len(completions) == 32
    for line in completions:
        text = line["completion"]
        assert line["rewards"] == values_of(text)
        assert line.get("failure") == ("picky: KeyError: 'three'" if "3" in text else None)
        total = 0.5 * len(text) - values_of(text).get("picky", 0.0)
        assert line["reward"] == pytest.approx(total, rel=1e-6)
    for line in lines(tmp_path):
        first_step = 1 + (line["step"] - 1) // 2 * 2
        of_round = [values_of(other["completion"]) for other in completions if other["step"] == first_step]
        for name in ("fair", "equal", "picky"):
            values = [values[name] for values in of_round if name in values]
            assert line[f"reward/{name}"] == pytest.approx(statistics.mean(values))
            assert line[f"reward_std/{name}"] == pytest.approx(statistics.stdev(values), abs=1e-12)
        assert line["reward_failures"] == sum(
            "3" in other["completion"] for other in completions if other["step"] == first_step
        )
    objects = json.loads((tmp_path / "objects.json").read_text())
    here = "tests.rewards.test_training"
    assert objects["reward"] == f"tests.rewards.misbehaving:fair, {here}.equal, {here}.picky"
    config = dataclasses.replace(config, resume=True, max_steps=6)
    with pytest.raises(ValueError, match=r"the reward of this run was the object .* and is now the object"):
        trainer(config, rewards=given[1:])
    with pytest.raises(ValueError, match="reward and rewards were both given"):
        trainer(config, equal, rewards=given)
    with pytest.raises(ValueError, match="reward_weights has 3 weights for 1 reward"):
        trainer(dataclasses.replace(config, output_dir=str(tmp_path / "other")), equal)


def test_each_of_several_rewards_has_a_line_in_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    shown: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure))
    numbers = dict.fromkeys(("ess", "log_ratio", "entropy", "tokens_per_forward", "rollout_mismatch"), 0.5)
    metrics: list[dict[str, Any]] = [
        numbers | {"step": step, "reward": 1.5, "reward/ones": value, "reward/twos": 1.0}
        for step, value in ((1, 0.5), (2, None))
    ]
    accuracy = {f"{kind}_accuracy_{when}": 0.5 for kind in ("sampled", "greedy") for when in ("before", "after")}
    plot_run(metrics, [], accuracy | {"steps": 2}, "title", tmp_path / "plot.png")
    panel = shown[0].axes[0]
    assert panel.get_title() == "mean reward of rollouts"
    assert [line.get_label() for line in panel.lines[1:]] == ["ones", "twos"]
    assert numpy.array_equal(panel.lines[1].get_xydata(), [[1, 0.5], [2, numpy.nan]], equal_nan=True)


def test_keys_of_several_rewards_train(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "rewards": [
            {"function": "dmpo.rewards:length", "options": {"target": 4}, "name": "brief"},
            {"function": "dmpo.rewards:format", "options": {"pattern": "1.*1"}},
        ],
        "reward_weights": [0.5, 1],
    }
    trainer(settings(tmp_path, max_steps=2, eval_steps=0, **keys)).train()
    (line, _) = lines(tmp_path)
    assert line["reward"] == pytest.approx(0.5 * line["reward/brief"] + line["reward/format"], rel=1e-6)
    config = load_config(DMPOConfig, str(tmp_path / "config.yaml"))
    assert {name: getattr(config, name) for name in keys} == keys
