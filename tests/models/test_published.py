"""If these fail, a published checkpoint is planned with another's sizes, or the page of models is not the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.cli import main
from dmpo.models.published import PUBLISHED, read_model_config
from dmpo.models.token_ids import listed_ids
from dmpo.planning.memory import Architecture

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TYPES = {"llada": "llada"}  # whose config is transformers' Llama


def row(name: str) -> str:
    """A line of the table of docs/models.md."""
    fields, config = PUBLISHED[name], read_model_config(name)
    sizes = Architecture.of(config)
    heads = f"{sizes.heads}/{config.num_key_value_heads}"
    attention = f"block-causal, {config.block_size}" if "block_size" in fields else "full"
    eos = ", ".join(str(token) for token in listed_ids(config.eos_token_id))
    cells = [
        f"`{name}`",
        f"`{fields['model_type']}`",
        f"{sizes.parameters / 1e9:.2f}",
        f"{sizes.layers}",
        f"{sizes.hidden}",
        heads,
        f"{sizes.mlp}",
        f"{sizes.vocab}",
        "tied" if sizes.tied else "own",
        f"{config.mask_token_id}",
        eos,
        attention,
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_has_the_table() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [line for line in map(row, PUBLISHED) if line not in lines]
    assert not missing, "docs/models.md needs:\n" + "\n".join(missing)
    assert sum(line.startswith("| `") and "/" in line.split("`")[1] for line in lines) == len(PUBLISHED)


def test_parameters_of_published_checkpoints() -> None:
    """Of the cards and of the sizes of the files on the Hub: 2 bytes a parameter."""
    parameters = {name: Architecture.of(read_model_config(name)).parameters for name in PUBLISHED}
    assert parameters["GSAI-ML/LLaDA-8B-Base"] == 8_015_581_184
    assert round(parameters["GSAI-ML/iLLaDA-8B-Base"] / 1e9, 2) == 7.62
    assert round(2 * parameters["JetLM/SDAR-1.7B-Chat"] / 1e9, 2) == 4.06
    assert round(2 * parameters["JetLM/SDAR-4B-Chat"] / 1e9, 1) == 8.8
    assert round(2 * parameters["JetLM/SDAR-8B-Chat"] / 1e9, 1) == 16.4
    assert round(2 * parameters["apple/DiffuCoder-7B-Instruct"] / 1e9, 1) == 15.2


def test_published_checkpoints_are_planned_without_a_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dmpo.models.published.hf_hub_download", lambda *arguments: pytest.fail("a download"))
    assert main(["plan", "illada-8b-gsm8k"]) == 0
    assert "fits 80 GB" in capsys.readouterr().out
    for name in ("JetLM/SDAR-8B-Chat", "apple/DiffuCoder-7B-Instruct"):
        assert main(["plan", "llada-8b-gsm8k", f"model={name}"]) == 0
