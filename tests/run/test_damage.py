"""If these fail, a run goes on from a damaged checkpoint, or from one of another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo import DMPOTrainer
from dmpo.pretrain import character_tokenizer
from dmpo.storage.checkpoints import checkpoint_damage, newest_checkpoint
from dmpo.storage.whole_files import publish
from tests.run.killed_run import small_trainer
from tests.small_runs import CountOnes
from tests.tiny_models import tiny


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


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
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
