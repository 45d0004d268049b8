"""If these fail, a known model that cannot work is downloaded or loaded by halves, or refused without a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmpo.cli import main
from dmpo.models import load_model
from dmpo.models.model_config import bidirectional_config
from dmpo.models.published import PUBLISHED, read_model_config
from dmpo.models.refused import REFUSED, find_refused

NAMES = {
    "inclusionAI/LLaDA-MoE-7B-A1B-Instruct": "mixtures of experts",
    "inclusionAI/LLaDA2.0-mini": "block-causal",
    "inclusionAI/LLaDA2.1-flash": "block-causal",
    "google/diffusiongemma-26B-A4B-it": "no mask token",
    "JetLM/SDAR-30B-A3B-Chat-b32": "mixtures of experts",
    "Efficient-Large-Model/Fast_dLLM_v2_7B": "shifted",
}
TYPES: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llada", "num_experts": 64, "hidden_size": 2048}, "LLaDA-MoE"),
    ({"model_type": "llada2_moe"}, "LLaDA2.x"),
    ({"model_type": "diffusion_gemma"}, "DiffusionGemma"),
    ({"model_type": "sdar_moe"}, "SDAR-30B-A3B"),
    ({"model_type": "Fast_dLLM_Qwen"}, "Fast_dLLM_v2"),
]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: Any, **options: Any) -> str:
        raise AssertionError("nothing is downloaded")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("dmpo.models.published.hf_hub_download", download)


@pytest.mark.parametrize("name", NAMES)
def test_refused_by_name_before_a_download(name: str) -> None:
    for load in (load_model, read_model_config):
        with pytest.raises(ValueError, match=f"^{name}: .* does not load: .*{NAMES[name]}.*; .* loads?"):
            load(name)


def test_a_run_is_refused_before_torch_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "llada-8b-gsm8k", "model=inclusionAI/LLaDA2.1-mini"]) == 2
    assert "model: inclusionAI/LLaDA2.1-mini: LLaDA2.x does not load" in capsys.readouterr().err


@pytest.mark.parametrize(("fields", "family"), TYPES)
def test_refused_by_config(fields: dict[str, Any], family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for mask_id in (None, 5):
        with pytest.raises(ValueError, match=rf"config\.json: model_type '{fields['model_type']}': {family} does not"):
            load_model(tmp_path, mask_id=mask_id)


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "google" / "diffusiongemma-mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        load_model("google/diffusiongemma-mine")


def test_what_works_is_published_and_loads() -> None:
    """No family's way out is refused itself."""
    for family in REFUSED:
        alternatives = [name for name in PUBLISHED if name in family.instead]
        assert alternatives, family
        assert not any(find_refused(name) for name in alternatives)
    assert {family.family for family in REFUSED} == {found for _, found in TYPES}


def test_a_type_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match=r"model_type 'mamba' is not supported; supported are llada, .*illada, sdar"):
        bidirectional_config({"model_type": "mamba"})


def test_no_mask_token_three_ways_to_give_it() -> None:
    fields = {"model_type": "llama", "vocab_size": 48}
    ways = r"config\.json, the config key mask_id, or load_model\(\.\.\., mask_id=\.\.\.\)"
    with pytest.raises(ValueError, match=ways):
        bidirectional_config(dict(fields))
    assert bidirectional_config(fields | {"mask_token_id": 3}).mask_token_id == 3
    assert bidirectional_config(dict(fields), 4).mask_token_id == 4
