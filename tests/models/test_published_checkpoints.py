"""If these fail, a checkpoint in the layout of iLLaDA, SDAR or Dream cannot be trained, or is merged into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dmpo.trainer
from dmpo.cli import main
from dmpo.config import DMPOConfig
from dmpo.models import load_adapter, load_model, save_model
from dmpo.models.masked_lm import special_ids
from dmpo.models.merge import merge_adapter
from dmpo.models.model_types import CLASSES, MASK_IDS
from dmpo.models.published import read_model_config
from dmpo.rollouts.policy import make_policy
from tests.models.published_checkpoints import EOS, MASK, PUBLISHED_KEYS, TOKENS, published_checkpoint
from tests.small_runs import lines
from tests.tiny_models import edit_config, plain_checkpoint, tiny

KEYS: dict[str, Any] = {
    "task": "tests.small_runs:CountOnes",
    "dtype": "bfloat16",
    "num_prompts": 2,
    "num_generations": 2,
    "gen_length": 4,
    "block_length": 4,
    "steps": 2,
    "temperature": 1.0,
    "early_stop": False,
    "max_prompt_length": 4,
    "replicates": 2,
    "score_views": 2,
    "gradient_steps": 2,
    "learning_rate": 0.01,
    "warmup_steps": 0,
    "eval_prompts": 2,
    "eval_steps": 0,
    "lora_r": 2,
    "lora_dropout": 0.0,
}
IS_NOT_KEPT = {"auto_map", "attn_implementation", "transformers_version", "torch_dtype"}
EVERY_WEIGHT: dict[str, Any] = {"lora_r": 0, "dtype": "float32"}


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmpo.trainer, "plot_run", lambda *arguments: None)  # longer than the run


def train(base: Path, run: Path, max_steps: int, **keys: Any) -> int:
    file = run.with_suffix(".yaml")
    file.write_text(json.dumps(KEYS | {"model": str(base), "output_dir": str(run), "max_steps": max_steps} | keys))
    return main(["train", str(file), "resume=true"])


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


@pytest.mark.parametrize(("kind", "lora"), [("illada", True), ("illada", False), ("sdar", True), ("Dream", False)])
def test_train_resume_evaluate_merge(kind: str, lora: bool, tmp_path: Path) -> None:
    """Four steps with a stop after two. The merged folder has the names, config keys, dtype and tokenizer of the base.

    A tiny SDAR's mask token is not that of the published ones, and its config.json names none: the key mask_id does.
    """
    base, run, merged = tmp_path / "base", tmp_path / "run", tmp_path / "merged"
    weights = published_checkpoint(base, kind)
    keys: dict[str, Any] = ({} if lora else EVERY_WEIGHT) | ({"mask_id": MASK} if kind == "sdar" else {})
    assert train(base, run, 2, **keys) == train(base, run, 4, **keys) == 0
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert main(["eval", str(run), "limit=2", f"output_dir={tmp_path / 'results'}"]) == 0
    assert main(["merge", str(run), "--output", str(merged)]) == 0

    written = stored(merged)
    assert written.keys() == weights.keys()
    dtype = torch.bfloat16 if lora else torch.float32
    assert {weight.dtype for weight in written.values()} == {dtype}
    assert any(not torch.equal(written[name], weight.to(dtype)) for name, weight in weights.items())
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, merged))
    assert after["mask_token_id"] == MASK
    for key in before.keys() - IS_NOT_KEPT:
        assert after[key] == before[key], key
    assert (after["torch_dtype"], "auto_map" in after) == (str(dtype).removeprefix("torch."), False)
    assert (merged / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()

    newest, again = run / "checkpoints" / "step-4", load_model(merged)
    expected: Any = load_model(base, mask_id=MASK) if lora else load_model(newest / "model")
    if lora:
        expected = merge_adapter(load_adapter(expected, newest / "adapter"))
    state = again.state_dict()
    assert type(again) is CLASSES[kind]
    assert all(torch.equal(weight, state[name]) for name, weight in expected.state_dict().items())
    assert again.config.tie_word_embeddings == (again.lm_head.weight is again.get_input_embeddings().weight)
    if kind == "illada" and not lora:
        assert train(base, tmp_path / "at_once", 4, **keys) == 0
        at_once = stored(tmp_path / "at_once" / "checkpoints" / "step-4" / "model")
        assert at_once.keys() == written.keys(), "the tied head is stored once"
        assert all(torch.equal(weight, written[name]) for name, weight in at_once.items()), "the stop changed nothing"


@pytest.mark.parametrize("kind", list(PUBLISHED_KEYS))
def test_every_weight_is_the_files(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = published_checkpoint(tmp_path / "base", kind)
    model = load_model(tmp_path / "base", mask_id=MASK)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())
    assert model.dtype == torch.bfloat16
    config = model.config
    assert (config.mask_token_id, config.eos_token_id, config.is_causal) == (MASK, EOS, False)
    assert config.rope_parameters["rope_theta"] == PUBLISHED_KEYS[kind]["rope_theta"]
    assert ("attention is block-causal with blocks of 4" in caplog.text) == (kind == "sdar")
    assert model.block_size == (4 if kind == "sdar" else None)


def test_the_size_of_a_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As config.json says, and saved; of a Qwen3 only if config.json says so."""
    folder = tmp_path / "sdar"
    published_checkpoint(folder, "sdar")
    edit_config(folder, block_size=8)
    model = load_model(folder, mask_id=MASK)
    assert model.block_size == 8
    assert not caplog.messages
    save_model(model, tmp_path / "saved")
    assert load_model(tmp_path / "saved").block_size == 8
    plain_checkpoint(tmp_path / "qwen3", "qwen3", mask_token_id=3)
    assert load_model(tmp_path / "qwen3").block_size is None
    edit_config(tmp_path / "qwen3", block_size=2)
    assert load_model(tmp_path / "qwen3").block_size == 2
    for wrong in (0, "4", True):
        edit_config(folder, block_size=wrong)
        with pytest.raises(ValueError, match=r"config\.json: block_size must be a positive integer"):
            load_model(folder, mask_id=MASK)
    edit_config(folder, block_size=4)
    with pytest.raises(ValueError, match="attn_implementation must be sdpa or eager for block-causal attention"):
        load_model(folder, mask_id=MASK, attn_implementation="flash_attention_2")
    published_checkpoint(tmp_path / "reasoner", "Dream")
    edit_config(tmp_path / "reasoner", block_size=32)
    with pytest.raises(ValueError, match=r"config\.json: Dream config: block_size must be None, got 32"):
        load_model(tmp_path / "reasoner")


def test_the_mask_token_of_a_known_type(tmp_path: Path) -> None:
    """The argument comes before config.json, and config.json before the id of the published models of the type."""
    folder = tmp_path / "illada"
    published_checkpoint(folder, "illada")
    assert load_model(folder).config.mask_token_id == MASK_IDS["illada"] == MASK
    edit_config(folder, mask_token_id=4)
    assert load_model(folder).config.mask_token_id == 4
    assert load_model(folder, mask_id=3).config.mask_token_id == 3
    config = read_model_config(str(folder), mask_id=3, eos_id=[4, EOS])
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (3, [4, EOS], 1)
    assert load_model(folder, eos_id=6).config.eos_token_id == 6
    published_checkpoint(tmp_path / "sdar", "sdar")
    with pytest.raises(ValueError, match=rf"mask_token_id must be in \[0, {len(TOKENS)}\), .* got 151669"):
        load_model(tmp_path / "sdar")
    with pytest.raises(ValueError, match="mask_id and eos_id must differ, got 2 for both"):
        load_model(folder, mask_id=EOS)


def test_the_keys_reach_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In generation, in a plan and in a run, also of a model that a script gives."""
    folder = tmp_path / "sdar"
    published_checkpoint(folder, "sdar")
    options = ["gen_length=4", "block_length=4", "steps=2", "early_stop=false"]
    assert main(["generate", str(folder), "12", *options, f"mask_id={MASK}", "eos_id=[2,4]"]) == 0
    assert main(["generate", str(folder), "12", *options]) == 2
    assert "mask_token_id must be in [0, 12), the vocabulary, got 151669" in capsys.readouterr().err
    keys = [f"model={folder}", f"mask_id={MASK}", "eos_id=2"]
    assert main(["plan", "llada-8b-gsm8k", *keys]) == 0
    given: Any = tiny()
    values = KEYS | {"model": "tiny", "output_dir": str(tmp_path / "run"), "mask_id": 7, "eos_id": [8, 9], "lora_r": 0}
    policy: Any = make_policy(DMPOConfig(**values), "cpu", given)
    assert special_ids(policy) == special_ids(given) == (7, (8, 9))
    with pytest.raises(ValueError, match=r"eos_token_id must be in \[0, 48\), the vocabulary, got 99"):
        make_policy(DMPOConfig(**values | {"eos_id": 99}), "cpu", given)


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_norm_eps", 1e-5), ("resid_pdrop", 0.1), ("rope_scaling", {"type": "linear", "factor": 2})],
)
def test_variants_of_illada_that_are_no_llama(key: str, value: Any, tmp_path: Path) -> None:
    published_checkpoint(tmp_path / "base", "illada")
    edit_config(tmp_path / "base", **{key: value})
    with pytest.raises(ValueError, match=rf"config\.json: illada config: {key} must be"):
        load_model(tmp_path / "base")
