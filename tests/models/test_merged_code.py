"""If these fail, plain transformers cannot load what `dmpo merge` wrote, or merging runs code of a checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from dmpo.cli import main
from dmpo.models import load_model, load_tokenizer, save_model
from dmpo.models.adapters import load_adapter
from dmpo.models.merge import merge
from tests.llada_checkpoint import CHAT_TEMPLATE
from tests.models.adapter_files import LINEAR, LLADA, write_adapter
from tests.tiny_models import edit_config, plain_checkpoint, tokens

EXIT = "raise SystemExit('code of a checkpoint ran')\n"
CONFIGURATION = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    base_field = None
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        config.is_causal = False  # which our own config.json would say, and the base's does not
        super().__init__(config)
"""
AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """A base with code of its own, and an adapter for it."""
    base = tmp_path / "base"
    plain_checkpoint(base, "llama")
    edit_config(base, auto_map=AUTO_MAP, mask_token_id=3, base_field="of the base's code", is_causal=...)
    tokenizer = load_tokenizer("sudoku-tiny")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(base)
    (base / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.25}')
    model = peft.get_peft_model(load_model(base), peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    (base / "configuration_own.py").write_text(CONFIGURATION)
    (base / "modeling_own.py").write_text(MODELING)
    (base / "helper.py").write_text(EXIT)
    return base


def test_transformers_loads_it_with_the_base_s_own_code(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = merge(tmp_path / "adapter", tmp_path / "out")
    assert line.endswith(
        "with tokenizer, with the base's auto_map and configuration_own.py, helper.py, modeling_own.py"
    )
    for name in ("modeling_own.py", "helper.py", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (own_code / name).read_bytes(), name
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(
        (own_code / "config.json").read_text()
    )

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert model.config.base_field == "of the base's code"
    assert model.generation_config.temperature == 0.25
    ids = tokens(2, 9)
    with torch.no_grad():
        expected = load_adapter(load_model(own_code), tmp_path / "adapter")(input_ids=ids).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert (load_model(own_code)(ids).logits - expected).abs().max() > 0.1
        torch.testing.assert_close(load_model(tmp_path / "out")(ids).logits, expected, atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_llada_s_layout_and_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    save_model(load_model(LLADA), base, "llada")
    fields = json.loads((LLADA / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(fields))
    for name in ("configuration_llada", "modeling_llada"):
        (base / f"{name}.py").write_text(EXIT)
    write_adapter(tmp_path / "adapter", LINEAR, base_model_name_or_path=str(base))
    for layout, said in (
        ("llada", "with the base's auto_map and configuration_llada.py, modeling_llada.py"),
        ("transformers", "without the base's auto_map, whose Python files read the base's layout"),
    ):
        out = tmp_path / layout
        assert main(["merge", str(tmp_path / "adapter"), "--output", str(out), "--layout", layout]) == 0
        assert said in capsys.readouterr().out
        assert len([*out.glob("*.py")]) == (2 if layout == "llada" else 0)
        written = json.loads((out / "config.json").read_text())
        assert written == fields if layout == "llada" else "auto_map" not in written
        assert load_model(out).config.mask_token_id == 3


@pytest.mark.parametrize(
    ("auto_map", "kept", "said"),
    [
        (
            {"AutoModel": "some/where--modeling_own.OwnModel"},
            ...,
            "torch.float32, with tokenizer, with the base's auto_map",
        ),
        (AUTO_MAP | {"AutoModel": "absent.Own"}, AUTO_MAP, "without 1 of 3 entries of the base's auto_map, because"),
        ({"AutoModel": "../own.Own"}, None, "without the base's auto_map, because the base lacks "),
        ("modeling_own.OwnModel", None, ""),
    ],
)
def test_entries_whose_files_are_elsewhere(auto_map: Any, kept: Any, said: str, own_code: Path, tmp_path: Path) -> None:
    edit_config(own_code, auto_map=auto_map)
    line = merge(tmp_path / "adapter", tmp_path / "out")
    assert said in line
    assert "modeling_own.py" not in line
    assert ("auto_map" in line) == bool(said)
    written = json.loads((tmp_path / "out" / "config.json").read_text()).get("auto_map")
    assert written == (auto_map if kept is ... else kept)
    assert bool([*(tmp_path / "out").glob("*.py")]) == (kept is AUTO_MAP)


def test_a_tokenizer_s_code_comes_along(tmp_path: Path) -> None:
    """In another layout, too."""
    base = tmp_path / "base"
    save_model(load_model(LLADA), base, "llada")
    load_tokenizer("sudoku-tiny").save_pretrained(base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (base / "tokenization_own.py").write_text(EXIT)
    merge(base, tmp_path / "out", layout="transformers")
    assert (tmp_path / "out" / "tokenization_own.py").read_text() == EXIT


def test_code_of_a_base_on_the_hub_is_downloaded_to_merge_and_not_to_train(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str], **options: Any) -> str:
        patterns.append(allow_patterns)
        return str(own_code)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert "modeling_own.py" in merge(tmp_path / "adapter", tmp_path / "out", base="some/base")
    assert "*.py" in patterns[0]
    load_model("some/base")
    assert "*.py" not in patterns[-1]
