"""If these fail, the model that a script saves, evaluates or uploads is not the model that the run has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from dmpo import load_model
from dmpo.models.adapters import load_adapter
from dmpo.models.masked_lm import hidden_states
from dmpo.run.model_card import model_card
from tests.ranks.launch import on_ranks, results
from tests.run.hub_stub import hub_stub
from tests.small_runs import settings, trainer
from tests.tiny_models import tiny

SHORT: dict[str, Any] = {"max_steps": 2, "eval_steps": 0, "save_steps": 0, "eval_prompts": 6, "learning_rate": 1e-2}
IDS = torch.arange(12).view(2, 6) % 7


def base() -> Any:
    return tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_the_saved_model_is_the_policy(tmp_path: Path, lora_r: int) -> None:
    run = trainer(settings(tmp_path / "run", lora_r=lora_r, **SHORT))
    before = run.save_model(tmp_path / "saved")
    run.train()
    name = "adapter" if lora_r else "model"
    assert run.save_model() == tmp_path / "run" / name
    assert run.save_model(before) == before, "what it held is replaced"
    for folder in (before, tmp_path / "run" / name):
        loaded = load_adapter(base(), folder) if lora_r else load_model(folder, dtype="float32")
        with torch.no_grad():
            expected = hidden_states(run.policy.eval(), IDS)
            assert torch.equal(hidden_states(loaded, IDS), expected)
        assert (folder / "tokenizer.json").exists()
    assert not list((tmp_path / "run").glob(".partial*"))
    assert run.save_model(tmp_path / "new" / "folders").exists()


@pytest.mark.parametrize("lora_r", [0, 2])
def test_others_read_the_weights_as_they_read_the_config(tmp_path: Path, lora_r: int) -> None:
    before = os.umask(0o027)  # of a group that shares its models
    try:
        run = trainer(settings(tmp_path / "run", lora_r=lora_r, **{**SHORT, "save_steps": 2}))
        run.train()
        saved = run.save_model()
    finally:
        os.umask(before)
    checkpoints = list((tmp_path / "run/checkpoints/step-2").rglob("*"))
    weights = [path for path in (*saved.iterdir(), *checkpoints) if path.suffix == ".safetensors"]
    assert len(weights) >= 3
    assert {path.stat().st_mode & 0o777 for path in weights} == {0o640}


def test_a_folder_of_other_files_is_not_overwritten(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path / "run", **SHORT))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    (tmp_path / "notes" / "more").mkdir()
    for name in ("notes", "notes/config.json"):
        with pytest.raises(ValueError, match=r"must be new, or hold a saved model, got .*notes"):
            run.save_model(tmp_path / name)
    assert (tmp_path / "notes" / "config.json").read_text() == "{}"


def test_evaluations_before_and_after_are_those_of_the_summary(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, **SHORT))
    before = run.evaluate()
    summary = run.train()
    for when, facts in (("before", before), ("after", run.evaluate())):
        for name in ("sampled_accuracy", "greedy_accuracy"):
            assert facts[name] == summary[f"{name}_{when}"]
            assert facts[f"{name}_interval"] == summary[f"{name}_{when}_interval"]
        assert facts["rows"] == 6
    assert run.evaluate("validation").keys() == before.keys()


def test_a_script_of_another_process_has_the_trained_model(tmp_path: Path) -> None:
    """Without training again: the checkpoint is loaded before the model is used."""
    run = trainer(settings(tmp_path / "run", lora_r=2, **SHORT))
    summary = run.train()
    again = trainer(settings(tmp_path / "run", lora_r=2, resume=True, **SHORT))
    with hub_stub() as hub:
        again.push_to_hub("counts", token="hf_secret", endpoint=hub.address)
    card = hub.files["me/counts"]["README.md"].decode()
    assert f"{summary['greedy_accuracy_after']:.1%} (" in card
    assert "for 2 gradient steps" in card
    for name in ("evaluate", "save_model"):
        again = trainer(settings(tmp_path / "run", lora_r=2, resume=True, **SHORT))
        getattr(again, name)()
        with torch.no_grad():
            assert torch.equal(hidden_states(again.policy.eval(), IDS), hidden_states(run.policy.eval(), IDS))


def use_on_ranks(folder: Path) -> dict[str, Any]:
    """A script that goes on after the training."""
    import dmpo.trainer

    dmpo.trainer.plot_run = lambda *arguments: None
    run = trainer(settings(folder, lora_r=2, **SHORT))
    summary = run.train()
    facts = run.evaluate()
    run.save_model()
    return {"same": facts["greedy_accuracy"] == summary["greedy_accuracy_after"], "rows": facts["rows"]}


def test_after_training_on_two_ranks(tmp_path: Path) -> None:
    ranks = on_ranks(2, use_on_ranks, tmp_path / "run", folder=tmp_path, sharding="fsdp")
    assert results(ranks) == [{"same": True, "rows": 6}] * 2
    assert load_adapter(base(), tmp_path / "run" / "adapter")


@pytest.mark.parametrize("lora_r", [0, 2])
def test_an_upload_has_the_model_and_a_card(tmp_path: Path, lora_r: int) -> None:
    run = trainer(settings(tmp_path / "run", lora_r=lora_r, **SHORT))
    summary = run.train()
    with hub_stub() as hub:
        options: dict[str, Any] = {"private": True, "token": "hf_secret", "endpoint": hub.address}
        assert run.push_to_hub("counts", commit_message="first", **options).startswith(f"{hub.address}/me/counts/")
    assert hub.messages == ["first"]
    assert hub.private == {"me/counts": True}
    assert set(hub.tokens) == {"Bearer hf_secret"}
    (files,) = hub.files.values()
    for name, content in files.items():
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = tmp_path / "downloaded"
    loaded = load_adapter(base(), folder) if lora_r else load_model(folder, dtype="float32")
    with torch.no_grad():
        assert torch.equal(hidden_states(loaded, IDS), hidden_states(run.policy.eval(), IDS))
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == ("peft" if lora_r else "transformers")
    assert {result.metric_value for result in card.data.eval_results} == {
        round(summary[f"{name}_accuracy_after"], 4) for name in ("sampled", "greedy")
    }
    low, high = summary["greedy_accuracy_after_interval"]
    assert f"{summary['greedy_accuracy_after']:.1%} ({low:.1%} to {high:.1%})" in card.text
    assert "for 2 gradient steps" in card.text
    assert f"dmpo.load_{'adapter' if lora_r else 'model'}(" in card.text
    assert '"me/counts"' in card.text
    keys = yaml.safe_load(card.text.partition("```yaml\n")[2].partition("```")[0])
    assert keys["learning_rate"] == 1e-2
    assert not keys.keys() & {"output_dir", "warmup_steps", "task_options", "model"}, "defaults, and the place"
    assert str(tmp_path) not in card.content, "no path of this machine"


def test_a_card_before_the_end_has_no_results_and_names_a_base_of_the_hub() -> None:
    config = settings(Path("run"), model="GSAI-ML/LLaDA-8B-Instruct", mask_id=126336)
    card = model_card(config, {}, repo_id="me/one", is_adapter=True, steps=7, objects={"reward": "judge.score"})
    assert card.data.to_dict()["base_model"] == "GSAI-ML/LLaDA-8B-Instruct"
    assert "Results" not in card.text
    assert "for 7 gradient steps." in card.text
    assert "reward `judge.score`" in card.text
    assert 'dmpo.load_adapter(dmpo.load_model("GSAI-ML/LLaDA-8B-Instruct", mask_id=126336), "me/one")' in card.text
    compile(card.text.partition("```python\n")[2].partition("```")[0], "card", "exec")


@pytest.mark.parametrize("refuses", [401, 0])
def test_a_hub_that_refuses_or_is_not_there_is_one_clear_line(tmp_path: Path, refuses: int) -> None:
    run = trainer(settings(tmp_path, **SHORT))
    with hub_stub() as hub:
        hub.refuses = refuses
        address = hub.address if refuses else "http://127.0.0.1:1"
        with pytest.raises(ValueError, match=rf"me/counts cannot be uploaded to {address}: ") as raised:
            run.push_to_hub("me/counts", token="hf_secret", endpoint=address)
    assert "\n" not in str(raised.value)
    assert "hf_secret" not in str(raised.value)
    with pytest.raises(ValueError, match="Repo id must"):
        run.push_to_hub("no/such/name", endpoint="http://127.0.0.1:1")
