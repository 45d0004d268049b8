"""If these fail, a run does not learn, does not repeat, loses work, or overwrites somebody's."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from dmpo import DMPOConfig, DMPOTrainer, load_model
from dmpo.plan import GB, PHASES, plan
from dmpo.pretrain import character_tokenizer
from dmpo.rewards import Reward
from dmpo.run.checkpoint import newest_checkpoint
from tests.tiny_models import tiny


class CountOnes:
    """Prompt: a digit; solved by a completion of ones. What a random model can learn in seconds."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[index % 4], "digit": index % 4}

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        return [text.count("1") / 4 for text in completions]

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return completion.count("1") >= 3

    def show(self, completion: str, row: dict[str, Any]) -> str:
        return completion


def settings(folder: Path, **changes: Any) -> DMPOConfig:
    values: dict[str, Any] = {
        "model": "tiny",
        "task": "sudoku4",
        "output_dir": str(folder),
        "dtype": "float32",
        "lora_r": 0,
        "num_prompts": 4,
        "num_generations": 4,
        "gen_length": 4,
        "block_length": 4,
        "steps": 2,
        "temperature": 1.0,
        "early_stop": False,
        "rollout_batch_size": 8,
        "max_prompt_length": 4,
        "alpha": 0.2,
        "replicates": 2,
        "score_views": 2,
        "max_steps": 6,
        "gradient_steps": 2,
        "learning_rate": 1e-3,
        "max_grad_norm": 1.0,
        "micro_batch_size": 8,
        "eval_prompts": 8,
        "eval_steps": 3,
        "save_steps": 3,
        "eval_temperature": 1.0,
    }
    return DMPOConfig(**(values | changes))


def trainer(config: DMPOConfig, reward: Reward | None = None) -> DMPOTrainer:
    # token ids of the character tokenizer: 0 EOS, 1 mask, 2 '.', 3 to 6 the digits
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    return DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=CountOnes(), reward=reward)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(autouse=True)
def _few_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than these runs; one test looks at it."""
    if request.function is not test_what_a_run_leaves:
        monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def test_it_learns(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"micro_batch_size": 0, "rollout_batch_size": 64, "eval_steps": 0, "save_steps": 0}
    config = settings(tmp_path, max_steps=40, num_prompts=8, num_generations=8, learning_rate=3e-3, **whole)
    summary = trainer(config).train()
    rewards = [line["reward"] for line in lines(tmp_path)]
    # A mean of 64 completions of four tokens has a standard error of at most 0.5 / 256^0.5 = 0.03.
    assert sum(rewards[-6:]) / 6 > rewards[0] + 0.2
    assert summary["sampled_accuracy_after"] > summary["sampled_accuracy_before"]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    summary = trainer(settings(tmp_path / "run")).train()
    folder = tmp_path / "run"
    metrics = lines(folder)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(next(iter(line)) == "step" for line in metrics)
    assert [line["round"] for line in metrics] == [0, 0, 1, 1, 2, 2]
    assert metrics[0]["log_ratio"] == 0, "the policy starts as the reference"
    assert metrics[-1]["log_ratio"] != 0
    assert ["sampled_accuracy" in line for line in metrics] == [False, False, True, False, False, True]
    assert json.loads((folder / "summary.json").read_text()) == summary
    wanted = {f"{k}_accuracy_{when}" for k in ("sampled", "greedy") for when in ("before", "after")}
    assert wanted | {"seconds", "seed"} <= summary.keys()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-3", "step-6"}
    assert (folder / "training.png").stat().st_size > 10_000
    phases = {key for line in lines(folder, "timings.jsonl") for key in line}
    assert {"rollout", "reward", "score", "update", "evaluate", "checkpoint"} <= phases
    assert load_model(folder / "checkpoints" / "step-6" / "model").config.mask_token_id == 1


def test_same_seed_same_metrics(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer(settings(tmp_path / name, seed=seed)).train()
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("stop", [2, 3])
def test_resume_equals_an_undisturbed_run(tmp_path: Path, lora_r: int, stop: int) -> None:
    """Stopped at the end of a round, and in the middle of one."""
    options: dict[str, Any] = {"lora_r": lora_r, "save_steps": 1}
    whole = trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "parts", max_steps=stop, eval_steps=0, **options)).train()
    parts = trainer(settings(tmp_path / "parts", resume=True, **options)).train()
    whole_lines, parts_lines = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    for line in whole_lines[:stop]:  # the first part did not evaluate
        line.pop("sampled_accuracy", None), line.pop("greedy_accuracy", None)
    assert parts_lines == whole_lines
    for key in ("sampled_accuracy_before", "greedy_accuracy_before", "sampled_accuracy_after", "greedy_accuracy_after"):
        assert parts[key] == whole[key]
    name = "adapter/adapter_model.safetensors" if lora_r else "model/model.safetensors"
    a, b = (load_file(tmp_path / run / "checkpoints" / "step-6" / name) for run in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_lines_after_the_checkpoint_are_rewritten(tmp_path: Path) -> None:
    """A run killed after step 3 was saved and step 4 was logged."""
    config = settings(tmp_path / "run", max_steps=3)
    trainer(config).train()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 99}\n{"step": 5, "lo')
    trainer(settings(tmp_path / "run", resume=True)).train()
    metrics = lines(tmp_path / "run")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[3]["loss"] != 99


def test_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(settings(tmp_path)).train()
    root = tmp_path / "checkpoints"
    weights = root / "step-6" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert newest_checkpoint(root) == root / "step-3"
    assert "step-6" in caplog.text
    assert "model.safetensors" in caplog.text
    (root / "step-3" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer(settings(tmp_path, resume=True))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(settings(tmp_path, save_steps=1, save_total_limit=2)).train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-5", "step-6"]


def test_a_damaged_newer_checkpoint_does_not_displace_a_whole_one(tmp_path: Path) -> None:
    trainer(settings(tmp_path, save_steps=2, save_total_limit=3)).train()
    (tmp_path / "checkpoints" / "step-6" / "trainer.json").write_text("{")
    trainer(settings(tmp_path, save_steps=1, save_total_limit=1, max_steps=5, resume=True)).train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-5"]
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-5"


def test_rows_need_not_be_json(tmp_path: Path) -> None:
    class Odd(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return super().row(split, index) | {"odd": Fraction(1, 3)}

    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    DMPOTrainer(settings(tmp_path), model=model, tokenizer=character_tokenizer(), task=Odd()).train()
    assert newest_checkpoint(tmp_path / "checkpoints") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"report_to": ["tensorbord"]}, "tensorbord"), ({"model": "no/such/model"}, "no/such/model")],
)
def test_nothing_is_written_for_a_mistake(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DMPOTrainer(settings(tmp_path / "run", **changes), tokenizer=character_tokenizer(), task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match="not empty"):
        trainer(settings(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file"):
        trainer(settings(tmp_path / "thesis.txt"))


def test_resume_with_another_config_is_refused(tmp_path: Path) -> None:
    trainer(settings(tmp_path)).train()
    with pytest.raises(ValueError, match=r"'alpha' was 0\.2 and is now 0\.3"):
        trainer(settings(tmp_path, resume=True, alpha=0.3))


@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
def test_every_baseline_runs(tmp_path: Path, baseline: Any) -> None:
    trainer(settings(tmp_path, baseline=baseline, lora_r=2, max_steps=2, eval_steps=0)).train()
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines(tmp_path))


def test_the_reference_is_refreshed_every_so_many_steps(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_steps": 1, "max_steps": 4, "eval_steps": 0, "save_steps": 0}
    trainer(settings(tmp_path / "run", reference_refresh_steps=2, **options)).train()
    zero = [line["log_ratio"] == 0 for line in lines(tmp_path / "run")]
    assert zero == [True, False, True, False], "just refreshed, the policy is its reference"


def test_the_buffer_is_used_and_what_is_stale_leaves_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_steps": 1, "max_steps": 5, "eval_steps": 0, "save_steps": 0}
    options |= {"buffer_rounds": 3, "learning_rate": 3e-2}
    for name, ess in (("all", 0.0), ("fresh", 1.0)):
        trainer(settings(tmp_path / name, buffer_min_ess=ess, **options)).train()
    kept, fresh = lines(tmp_path / "all"), lines(tmp_path / "fresh")
    assert [line["buffer_groups"] for line in kept] == [4, 8, 12, 12, 12]
    assert kept[-1]["buffer_dropped"] == 0
    assert kept[-1]["age"] > 0
    assert all(line["buffer_groups"] < 12 for line in fresh)
    assert fresh[-1]["buffer_dropped"] > 8


def test_accumulation_in_a_launch_config_does_not_scale_the_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain", "accumulating"):
        trainer(settings(tmp_path / name, max_steps=2, eval_steps=0, micro_batch_size=8)).train()
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # what accelerate launch hands down
    assert lines(tmp_path / "plain") == lines(tmp_path / "accumulating")


def test_a_memory_budget_chooses_the_micro_batch(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, rollout_batch_size=1, micro_batch_size=5))
    needed = plan(run.config, run.policy.config, device="cpu")
    for budget, size in ((max(map(needed.peak, PHASES)) / GB, 5), (10.0, 32)):  # of 32 views
        changes: dict[str, Any] = {"rollout_batch_size": 1, "memory_budget": budget}
        assert trainer(settings(tmp_path, **changes)).config.micro_batch_size == size
    with pytest.raises(ValueError, match="memory_budget: a micro-batch of one view needs"):
        trainer(settings(tmp_path, memory_budget=1e-6))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("lora_r", [0, 2])
def test_checkpointing_of_activations_changes_memory_alone(tmp_path: Path, lora_r: int) -> None:
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for name, switch in (("plain", False), ("checkpointed", True)):
        kept.append(0)
        run = trainer(settings(tmp_path / name, gradient_checkpointing=switch, lora_r=lora_r, eval_steps=0))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.train()
    assert lines(tmp_path / "plain") == lines(tmp_path / "checkpointed")
    assert kept[1] < kept[0]


def test_lora_trains_the_adapter_alone(tmp_path: Path) -> None:
    from peft import PeftModel

    run = trainer(settings(tmp_path, lora_r=2, max_steps=2))
    base = {name: p.clone() for name, p in run.policy.named_parameters() if "lora" not in name}
    run.train()
    assert all(torch.equal(p, base[name]) for name, p in run.policy.named_parameters() if "lora" not in name)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in run.policy.named_parameters() if "lora" in name}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    loaded = PeftModel.from_pretrained(
        tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32), tmp_path / "checkpoints" / "step-2" / "adapter"
    )
    trained = {name: p for name, p in run.policy.named_parameters() if "lora_B" in name}
    again = dict(loaded.named_parameters())
    assert trained
    assert all(p.abs().sum() > 0 and torch.equal(p, again[name]) for name, p in trained.items())


def test_a_wrong_reward_stops_before_any_work(tmp_path: Path) -> None:
    def short(completions: list[str], **columns: list[Any]) -> list[float]:
        return [0.0]

    with pytest.raises(ValueError, match="reward short returned 1 values"):
        trainer(settings(tmp_path / "run"), reward=short)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_turns_nan_is_named(tmp_path: Path) -> None:
    calls = []

    def late(completions: list[str], **columns: list[Any]) -> list[float]:
        calls.append(1)
        return [float("nan") if len(calls) > 2 else 0.5] * len(completions)

    with pytest.raises(ValueError, match="reward late must return finite numbers, got nan"):
        trainer(settings(tmp_path, save_steps=2), reward=late).train()
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-2", "what was done is kept"


def test_a_long_prompt_is_refused(tmp_path: Path) -> None:
    class Long(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return {"prompt": "12341", "digit": 0}

    with pytest.raises(ValueError, match="prompt has 5 tokens, must be 1 to max_prompt_length 4"):
        DMPOTrainer(settings(tmp_path), model=tiny(), tokenizer=character_tokenizer(), task=Long())

    class LongTest(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return {"prompt": "12341" if (split, index) == ("test", 5) else "1", "digit": 0}

    with pytest.raises(ValueError, match="prompt has 5 tokens"):
        DMPOTrainer(settings(tmp_path), model=tiny(), tokenizer=character_tokenizer(), task=LongTest())
    with pytest.raises(ValueError, match="the model takes 6 tokens"):
        DMPOTrainer(settings(tmp_path), model=tiny(max_length=6), tokenizer=character_tokenizer(), task=CountOnes())


@pytest.mark.parametrize("name", ["early_stop", "truncate_at_eos"])
def test_an_eos_is_needed_from_the_start(tmp_path: Path, name: str) -> None:
    config, model = settings(tmp_path / "run", **{name: True}), tiny(vocab_size=7, mask_id=1, eos_id=None)
    with pytest.raises(ValueError, match=f"{name} needs an EOS token"):
        DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", model=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent"):
        DMPOTrainer(config, task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_mixed_precision_of_a_launch_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what accelerate launch hands down
    AcceleratorState._reset_state()
    try:
        with pytest.raises(ValueError, match="mixed_precision bf16, which must be no"):
            trainer(settings(tmp_path))
    finally:
        AcceleratorState._reset_state()
    assert not any(tmp_path.iterdir())
