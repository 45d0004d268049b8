"""If these fail, a run that is killed, told to leave, or meets a full disk or a NaN loses work, or is another run."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dmpo.trainer
from dmpo import DMPOTrainer
from dmpo.pretrain import character_tokenizer
from dmpo.run import checkpoint, saving
from dmpo.run.checkpoint import checkpoint_damage, list_checkpoints, newest_checkpoint
from dmpo.run.interruption import Interrupted, SignalWatch
from dmpo.run.json_lines import JsonLines
from dmpo.run.lock import FolderLock
from dmpo.run.whole_files import publish, write_text
from tests.killed_run import small_trainer, start, start_ranks
from tests.test_trainer import CountOnes
from tests.tiny_models import tiny

REASON = "No space left on device (os error 28)"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    monkeypatch.setattr("dmpo.run.lock.PATIENCE", 0.0)
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    monkeypatch.setattr(saving, "PAUSE", 0.0)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step}" / checkpoint.ADAPTER)


# Killed


def test_killed_at_random_and_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    """At random lines of what writes: at the start, amid a round, between log and checkpoint, in checkpoints."""
    whole, count = start(tmp_path / "whole", traced=True)
    whole.join()
    assert whole.exitcode == 0
    draw, kills, status = random.Random(0), 0, -signal.SIGKILL
    while status:
        process, _ = start(tmp_path / "killed", draw.randrange(1, count.value // 2))
        process.join()
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills >= 5
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert names(tmp_path / "killed" / "checkpoints")[-2:] == ["step-6", "step-8"]  # an older one may have been spared
    a, b = weights(tmp_path / "whole", 8), weights(tmp_path / "killed", 8)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_lines_cut_short_are_forgotten(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": 0.1}, {"step": 2, "loss": float("nan")}, {"step": 3})
    before = file.path.read_bytes()
    with file.path.open("ab") as raw:
        raw.write(b'{"step": 4, "lo')
    assert [line["step"] for line in file.read()] == [1, 2, 3]
    assert file.read()[1]["loss"] is None
    assert file.cut(9) == 3
    assert file.path.read_bytes() == before
    assert file.cut(2) == 2
    assert before.startswith(file.path.read_bytes())


def test_resume_starts_a_run_that_has_nothing_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never begun; killed before config.yaml; killed before the first checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".partial-config.yaml").write_text("half")
    small_trainer(folder, max_steps=1, save_steps=0).train()
    assert "starts at step 0" in caplog.text
    (folder / "checkpoints" / "step-1").rename(tmp_path / "elsewhere")
    small_trainer(folder, max_steps=2, save_steps=0).train()
    assert [line["step"] for line in lines(folder)] == [1, 2]
    assert ".partial-config.yaml" not in names(folder)


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        small_trainer(tmp_path)
    assert names(tmp_path) == ["thesis.txt"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    run = small_trainer(tmp_path, max_steps=1)
    holder = FolderLock(tmp_path)
    with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on"):
        run.train()
    holder.release()
    run.train()
    late = small_trainer(tmp_path, max_steps=2)
    small_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ValueError, match="another run has written into output_dir"):
        late.train()
    FolderLock(tmp_path).release()


# Damaged checkpoints


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint with all its files, and nothing in them."""
    aside = tmp_path / ".partial-step-7"
    for name in (
        "adapter/adapter_model.safetensors",
        "optimizer.safetensors",
        "rank-0.safetensors",
        "rank-1.safetensors",
    ):
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).write_text(name)
    (aside / "trainer.json").write_text('{"step": 7, "world": 2}')
    publish(aside, tmp_path / "step-7")
    assert checkpoint_damage(tmp_path / "step-7") is None
    return tmp_path / "step-7"


def edit_manifest(folder: Path, name: str, value: str | None) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = value
    if value is None:
        del manifest[name]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "rank-1.safetensors", "trainer.json"])
def test_every_change_of_a_checkpoint_is_seen(whole: Path, name: str) -> None:
    file = whole / name
    content = file.read_bytes()
    for damaged in (content[:-1], content[:-2] + b"?" + content[-1:], content + b" "):
        file.write_bytes(damaged)
        assert name in str(checkpoint_damage(whole))
    file.unlink()
    assert name in str(checkpoint_damage(whole))
    file.write_bytes(content)
    assert checkpoint_damage(whole) is None
    edit_manifest(whole, name, None)
    assert f"does not name {name}" in str(checkpoint_damage(whole))


@pytest.mark.parametrize("text", ["", "[]", '{"step', '{"trainer.json": 3}'])
def test_a_broken_manifest_is_damage(whole: Path, text: str) -> None:
    (whole / "manifest.json").write_text(text)
    assert "manifest.json" in str(checkpoint_damage(whole)) or "JSON" in str(checkpoint_damage(whole))


def test_a_manifest_cannot_lead_outside(whole: Path) -> None:
    (whole.parent / "secret").write_text("x")
    for name in ("../secret", str(whole.parent / "secret")):
        edit_manifest(whole, name, "0")
        assert "outside" in str(checkpoint_damage(whole))
        edit_manifest(whole, name, None)
    (whole / "rank-0.safetensors").unlink()
    (whole / "rank-0.safetensors").symlink_to(whole.parent / "secret")
    assert "outside" in str(checkpoint_damage(whole))


def test_a_renamed_checkpoint_is_passed_over(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole.rename(whole.with_name("step-9"))
    assert newest_checkpoint(whole.parent) is None
    assert "step-9 is damaged (trainer.json is of step 7)" in caplog.text


def test_another_model_is_told_by_name(tmp_path: Path) -> None:
    small_trainer(tmp_path, max_steps=1).train()
    folder = tmp_path / "checkpoints" / "step-1"
    other = small_trainer(tmp_path / "other", lora_r=4, resume=False)
    other.run.checkpoint = folder
    with pytest.raises(ValueError, match=r"step-1: .*lora_A.* has shape"):
        other.train()
    other = small_trainer(tmp_path / "third", lora_r=0, resume=False)
    other.run.checkpoint = folder
    with pytest.raises(ValueError, match=r"step-1: .*missing or unknown"):
        other.train()


def test_a_run_does_not_go_on_from_other_base_weights(tmp_path: Path) -> None:
    """An adapter fits any base of its shape."""
    small_trainer(tmp_path, max_steps=1).train()
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32, num_layers=1, seed=1)
    config = small_trainer(tmp_path, max_steps=2).config
    other = DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=CountOnes())
    with pytest.raises(ValueError, match="began with other weights"):
        other.train()


# Full disks


@pytest.mark.parametrize("what", ["adapter_model", "optimizer", "rank-0", "trainer", "manifest"])
def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second of three saves is refused, at each file in turn."""
    real = os.fsync if what == "manifest" else None
    kept: list[list[str]] = []

    def refuse(path: Any) -> None:
        path = Path(path)
        if what in path.name and "step-2" in str(path):
            kept.append(names(tmp_path / "checkpoints"))
            raise OSError(errno.ENOSPC, "No space left on device") if real else RuntimeError(REASON)

    def patched(name: str, module: Any, place: int) -> None:
        function = getattr(module, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            refuse(arguments[place])
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, wrapper)

    patched("save_file", checkpoint, 1)
    patched("safe_save_file", __import__("peft.peft_model").peft_model, 1)
    patched("write_text", Path, 0)
    run = small_trainer(tmp_path, max_steps=3, save_steps=1, save_total_limit=1)
    run.train()
    assert kept == [[".partial-step-2", "step-1"]]
    assert "step-2 could not be written" in caplog.text
    assert names(tmp_path / "checkpoints") == ["step-3"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_the_last_step_must_be_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = small_trainer(tmp_path, max_steps=1)
    with largest_file(1500), pytest.raises(OSError, match="step 1 cannot be saved"):
        run.train()
    assert "File too large" in caplog.text
    assert names(tmp_path / "checkpoints") == []


def test_the_last_step_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10, 10**12])
    monkeypatch.setattr(saving, "PATIENCE", 60.0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": next(free)}))
    small_trainer(tmp_path, max_steps=1).train()
    assert names(tmp_path / "checkpoints") == ["step-1"]


def test_a_foreign_error_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        small_trainer(tmp_path, max_steps=1).train()


def test_lines_wait_for_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    with largest_file(20):
        file.append({"step": 2})
        assert file.path.read_text() == '{"step": 1}\n'
        assert "its lines wait" in caplog.text
        with pytest.raises(OSError, match="File too large"):
            file.sync()
    file.append({"step": 3})
    assert [line["step"] for line in file.read()] == [1, 2, 3]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", "old")
    with largest_file(4), pytest.raises(OSError):
        write_text(tmp_path / "config.yaml", "longer than that")
    assert (tmp_path / "config.yaml").read_text() == "old"


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_then_leaves(tmp_path: Path, number: signal.Signals, status: int) -> None:
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 3:  # the first is the check before anything begins
            os.kill(os.getpid(), number)
        return [text.count("1") / 4 for text in completions]

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as left:
        small_trainer(tmp_path / "run", reward, save_steps=0).train()
    assert left.value.code == status
    assert signal.getsignal(number) is handler
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    assert names(tmp_path / "run" / "checkpoints") == ["step-3"]
    if number == signal.SIGTERM:
        small_trainer(tmp_path / "run", save_steps=0).train()
        small_trainer(tmp_path / "whole", save_steps=0).train()
        assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_second_interrupt_is_obeyed_at_once() -> None:
    with SignalWatch(speaks=False) as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.noted == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# Steps that are not finite


def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = dmpo.trainer.accumulate_gradient, []

    def poisoned(accelerator: Any, model: Any, policy: Any, batch: Any, config: Any, step: int) -> Any:
        result = real(accelerator, model, policy, batch, config, step)
        seen.append([p.detach().clone() for p in run.trainable])
        if step in (2, 4, 5):
            run.trainable[0].grad.fill_(float("inf"))
        return result

    monkeypatch.setattr(dmpo.trainer, "accumulate_gradient", poisoned)
    run = small_trainer(tmp_path, max_steps=7, max_skipped_steps=3, warmup_steps=7, save_steps=1)
    summary = run.train()
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 1, 0, 1, 1, 0]
    assert summary["skipped_steps"] == 3
    moved = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(seen)]
    assert moved == [True, True, False, True, False, False]
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates == sorted(set(rates)), "the schedule goes on"
    assert lines(tmp_path)[2]["grad_norm"] is None


def test_too_many_stop_the_run_with_its_state_and_the_batch(tmp_path: Path) -> None:
    """A weight turns NaN after two good rounds, as an overflow would make it."""
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 4:
            run.trainable[-1].data.fill_(float("nan"))  # of the last layer's MLP
        return [text.count("1") / 4 for text in completions]

    run = small_trainer(tmp_path, reward, save_steps=1, save_total_limit=1, max_skipped_steps=2, buffer_rounds=1)
    with pytest.raises(FloatingPointError, match=r"the last 2 steps .* saved at step 6, and the batch of step 6 is in"):
        run.train()
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 0, 0, 1, 1]
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step-4", "step-5", "step-6"], "the last good one stays"
    folder = tmp_path / "not-finite-step-6"
    rows = json.loads((folder / "rank-0.json").read_text())
    assert len(rows) == 16
    assert rows[0].keys() >= {"prompt", "completion", "row_id", "rewards", "log_prob_ref", "log_prob_cur"}
    assert rows[0]["prompt"] in "1234"
    assert any(row["log_prob_cur"] is None for row in rows)
    assert load_file(folder / "rank-0.safetensors")["tokens"].shape == (16, 4)
    with pytest.raises(FloatingPointError):  # the count goes on where it was
        small_trainer(tmp_path, buffer_rounds=1, save_steps=1, save_total_limit=1, max_skipped_steps=3).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_reward_gone_wrong_loses_nothing(tmp_path: Path) -> None:
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        return [0.5] * (len(completions) - (len(calls) == 4))

    with pytest.raises(ValueError, match="reward"):
        small_trainer(tmp_path, reward, save_steps=0).train()
    assert names(tmp_path / "checkpoints") == ["step-4"]


# Several ranks


def reward_that_ends_rank_1(completions: list[str], **columns: Any) -> list[float]:
    if os.environ["RANK"] == "1" and len(completions) > 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return [text.count("1") / 4 for text in completions]


def test_a_signal_to_one_rank_stops_all_and_another_number_goes_on(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path, 2, reward=reward_that_ends_rank_1, save_steps=0)
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [143, 143]
    assert names(tmp_path / "checkpoints") == ["step-1"]
    small_trainer(tmp_path, max_steps=3, save_steps=0).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
