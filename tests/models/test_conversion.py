"""If these fail, a converted model is not the source with full attention, or a wrong source leaves files behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo import DMPOTrainer
from dmpo.cli import main
from dmpo.models import convert, load_model, load_tokenizer, save_model
from dmpo.models.merge import merge
from dmpo.models.model_config import bidirectional_config
from dmpo.pretrain import character_tokenizer
from tests.models.conversion_sources import byte_tokenizer, source
from tests.small_runs import CountOnes, settings
from tests.tiny_models import edit_config, tokens

ALL = len(byte_tokenizer())


def full_attention(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of transformers' own causal model, its mask replaced by zeros."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits: torch.Tensor = model(ids, attention_mask=torch.zeros(len(ids), 1, *2 * ids.shape[1:])).logits
    return logits


@pytest.mark.parametrize(
    ("kind", "shift", "changes"),
    [
        ("llama", False, {}),
        ("llama", True, {"tie_word_embeddings": True}),
        ("qwen2", True, {}),
        ("qwen2", False, {"tie_word_embeddings": True}),
        ("qwen3", True, {}),
    ],
)
def test_the_source_with_full_attention(kind: str, shift: bool, changes: dict[str, Any], tmp_path: Path) -> None:
    original = source(tmp_path / "source", kind, **changes)
    report = convert(tmp_path / "source", tmp_path / "masked", shift=shift)
    model = load_model(tmp_path / "masked")
    state = original.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    config: Any = model.config
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id) == (3, 0, 0)
    assert (model.prediction_shift, config.is_causal, config.model_type) == (int(shift), False, kind)
    assert config.tie_word_embeddings == bool(changes)

    ids = tokens(2, 7)
    expected = full_attention(original, ids)
    if shift:
        expected = torch.cat([expected[:, :1], expected[:, :-1]], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    tokenizer = load_tokenizer(tmp_path / "masked")
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert tokenizer("a<image>b c")["input_ids"] == byte_tokenizer()("a<image>b c")["input_ids"]
    assert tokenizer.mask_token_id == 3
    lines = report.splitlines()
    assert lines[0] == f"{tmp_path / 'masked'}: {tmp_path / 'source'} as a bidirectional masked language model"
    assert lines[1].startswith(f"{kind}, 0.0 million parameters, float32, ")
    assert lines[2:4] == [
        "mask token: <image> (3), a special token that nothing used",
        "EOS: <|endoftext|> (0); padding: <|endoftext|> (0)",
    ]
    assert ("j-1" in lines[4]) == shift
    assert lines[5] == f"tokenizer: {ALL} tokens, with a chat template"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("spare", [0, 3])
def test_a_new_token_has_the_mean_row(tied: bool, spare: int, tmp_path: Path) -> None:
    rows = ALL + spare
    original = source(tmp_path / "source", vocab_size=rows, tie_word_embeddings=tied)
    report = convert(tmp_path / "source", tmp_path / "masked", mask_token="<blank>")
    model = load_model(tmp_path / "masked")
    assert model.config.mask_token_id == ALL
    assert load_tokenizer(tmp_path / "masked")("<blank>")["input_ids"] == [ALL]
    assert model.config.vocab_size == max(rows, ALL + 1)
    assert ("grew from" in report) == (spare == 0)
    assert model.config.tie_word_embeddings is tied
    pairs: list[Any] = [
        (model.get_input_embeddings(), original.get_input_embeddings()),
        (model.lm_head, original.lm_head),
    ]
    for new, old in [(new.weight, old.weight) for new, old in pairs]:
        assert len(new) == model.config.vocab_size
        torch.testing.assert_close(new[ALL], old[:ALL].double().mean(0).float(), rtol=1e-6, atol=1e-6)
        assert torch.equal(new[:ALL], old[:ALL])
        assert torch.equal(new[ALL + 1 :], old[ALL + 1 :])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied


def test_every_eos_of_the_source(tmp_path: Path) -> None:
    source(tmp_path / "source", eos_token_id=1, tokenizer=byte_tokenizer(pad_token="<tool>"))
    (tmp_path / "source" / "generation_config.json").write_text('{"eos_token_id": [3, 1, 9999]}')
    convert(tmp_path / "source", tmp_path / "masked", dtype="bfloat16")
    model = load_model(tmp_path / "masked")
    assert (model.config.eos_token_id, model.config.pad_token_id) == ([0, 1, 3], 2)
    assert model.config.mask_token_id == ALL  # <image> is an EOS, and <tool> pads
    assert model.dtype == torch.bfloat16


def test_padding_without_a_row_becomes_eos(tmp_path: Path) -> None:
    padded = byte_tokenizer()
    padded.add_special_tokens({"pad_token": "<pad>"})
    source(tmp_path / "source", tokenizer=padded, vocab_size=ALL)
    convert(tmp_path / "source", tmp_path / "masked")
    assert load_model(tmp_path / "masked").config.pad_token_id == 0
    assert load_tokenizer(tmp_path / "masked").pad_token_id == 0


def test_a_converted_model_is_planned_trained_and_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source(tmp_path / "source", tokenizer=character_tokenizer(), vocab_size=20)
    masked, run = str(tmp_path / "masked"), tmp_path / "run"
    assert main(["convert", str(tmp_path / "source"), "--output", masked, "--shift"]) == 0
    assert "mask token: <mask> (1)" in capsys.readouterr().out
    assert main(["plan", "sudoku-tiny", f"model={masked}"]) == 0
    config = settings(run, model=masked, lora_r=2, max_steps=1, gradient_steps=1, eval_steps=1, save_steps=1)
    task = CountOnes()
    DMPOTrainer(config, task=task, reward=task.reward).train()
    merge(run, tmp_path / "merged")
    before: Any = load_model(masked)
    after: Any = load_model(tmp_path / "merged")
    assert (after.prediction_shift, after.config.mask_token_id) == (1, 1)
    assert not torch.equal(
        before.model.layers[0].self_attn.q_proj.weight, after.model.layers[0].self_attn.q_proj.weight
    )
    with pytest.raises(ValueError, match=r"'llada' cannot express prediction_shift=1"):
        save_model(after, tmp_path / "llada", "llada")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_causal": False}, "'llama' is a masked or diffusion model already"),
        ({"mask_token_id": 3}, "already"),
        ({"model_type": "llada"}, "'llada' is a masked or diffusion model already"),
        ({"model_type": "Dream"}, "already"),
        ({"model_type": "sdar_moe"}, "already"),
        ({"model_type": "gpt2"}, "'gpt2' is not supported; llama, qwen2, qwen3 are"),
        ({"model_type": ...}, "None is not supported"),
        ({"quantization_config": {"quant_method": "awq"}}, r"the weights are quantised \(awq\)"),
        ({"hidden_size": 32}, "shape"),
    ],
)
def test_a_source_that_cannot_be_converted(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source(tmp_path / "source")
    edit_config(tmp_path / "source", **changes)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "source", tmp_path / "masked")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    source(tmp_path / "source", "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(ValueError, match="sliding window"):
        convert(tmp_path / "source", tmp_path / "masked")


def test_mistakes_are_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source(Path("source"))
    convert("source", "masked")
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/model.gguf").write_text("?")
    source(Path("bare"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        Path("bare", file).unlink()
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for words, message in {
        "source --output masked": "output must be absent or an empty folder, got masked",
        "source --output source/config.json": "output must be absent or an empty folder",
        "masked --output out": "masked or diffusion model already",
        "sudoku-tiny --output out": "masked or diffusion model already",
        "GSAI-ML/LLaDA-8B-Instruct --output out": "masked or diffusion model already",
        "inclusionAI/LLaDA2.0-mini --output out": "LLaDA2.x does not load",
        "bare --output out": "bare holds no tokenizer",
        "source --output out --mask-token a": "ordinary text of the vocabulary",
        "source --output out --mask-token <|endoftext|>": "in use",
        "source --output out --dtype int8": "dtype must be a floating-point torch dtype",
        "absent --output out": "'absent' does not exist",
        "other --output out": "holds GGUF files and no config.json: name one, such as gguf=model.gguf",
        "other --gguf none.gguf --output out": "other has no file none.gguf",
        "other/model.gguf --output out": "is no GGUF file, or a damaged one",
        "source/config.json --output out": "source must be a folder, a Hub id or one GGUF file",
    }.items():
        assert main(["convert", *words.split()]) == 2, words
        printed = capsys.readouterr()
        assert printed.err.startswith("dmpo convert: "), words
        assert message in printed.err
        assert (printed.out, printed.err.count("\n")) == ("", 1), words
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(tmp_path / "source")
    (tmp_path / "masked").mkdir()

    def stop(*arguments: object, **options: object) -> None:
        assert len(list(tmp_path.glob(".partial-masked/*.safetensors"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "source", tmp_path / "masked")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masked", "source"]
    assert list((tmp_path / "masked").iterdir()) == []
    monkeypatch.undo()
    convert(tmp_path / "source", tmp_path / "masked")


def test_the_shift_that_a_config_states(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"model_type": "qwen3", "mask_token_id": 3, "vocab_size": 48}
    for shift in (2, -1, True, None, "1"):
        with pytest.raises(ValueError, match="prediction_shift must be 0 or 1, got"):
            bidirectional_config(fields | {"prediction_shift": shift})
    with pytest.raises(ValueError, match="block-causal"):
        bidirectional_config(fields | {"prediction_shift": 1, "block_size": 4})
