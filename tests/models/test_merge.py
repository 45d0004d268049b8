"""If these fail, a merged checkpoint is not what was trained, or not what its family's tools can read."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from dmpo.cli import main
from dmpo.models import load_model, load_tokenizer, save_model
from dmpo.models.adapters import load_adapter
from dmpo.models.merge import merge, trained_folder
from dmpo.storage.checkpoints import list_checkpoints
from tests.models.adapter_files import HEAD, LINEAR, LLADA, SHAPES, merged_by_hand, write_adapter
from tests.tiny_models import edit_config, plain_checkpoint, tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bit_equal_in_the_official_layout(tmp_path: Path, dtype: torch.dtype, capsys: Any) -> None:
    """W + scale·BA in float32, rounded once; the head as well, which training refuses; named and read as LLaDA."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    save_model(load_model(LLADA, dtype=dtype), base, "llada")
    load_tokenizer("sudoku-tiny").save_pretrained(base)
    weights = write_adapter(adapter, [*LINEAR, HEAD], base_model_name_or_path=str(base))
    assert main(["merge", str(adapter), "--output", str(out)]) == 0
    assert f"merged into {base}, llada layout, {dtype}, with tokenizer" in capsys.readouterr().out
    with torch.no_grad():
        expected, found = merged_by_hand(load_model(base), weights, 3.0).state_dict(), load_model(out).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {name: tuple(weight.shape) for name, weight in load_file(out / "model.safetensors").items()} == SHAPES
    assert json.loads((out / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "out"]


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["k_proj", "lm_head", "embed_tokens"]},
    ],
)
def test_other_kinds_of_adapters(tmp_path: Path, fields: dict[str, Any]) -> None:
    """What peft computes with the adapter on, the merged checkpoint computes without."""
    plain_checkpoint(tmp_path / "base", "qwen2", mask_token_id=3)
    model = peft.get_peft_model(load_model(tmp_path / "base"), peft.LoraConfig(r=2, lora_alpha=4, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    model.save_pretrained(str(tmp_path / "adapter"))
    said = merge(tmp_path / "adapter", tmp_path / "new/out", max_shard_size=4000)
    assert said.endswith("transformers layout, torch.float32, without a tokenizer")
    assert len(list((tmp_path / "new/out").glob("*.safetensors"))) > 1
    ids, merged = tokens(2, 7), load_model(tmp_path / "new/out")
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-3, rtol=1e-4)
        assert (load_model(tmp_path / "base")(ids).logits - expected).abs().max() > 0.5


def test_a_base_whose_flag_says_tied_and_whose_head_differs(tmp_path: Path) -> None:
    """The merged checkpoint keeps the head."""
    plain_checkpoint(tmp_path / "base", "qwen2", mask_token_id=3, tie_word_embeddings=False)
    edit_config(tmp_path / "base", tie_word_embeddings=True)
    model = peft.get_peft_model(load_model(tmp_path / "base"), peft.LoraConfig(r=2, target_modules=["q_proj"])).eval()
    ids = tokens(2, 7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        expected = model(input_ids=ids).logits
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    merge(tmp_path / "adapter", tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "out")(ids).logits, expected, atol=1e-3, rtol=1e-4)


def test_biases_that_the_base_has_no_place_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain_checkpoint(tmp_path / "base", "qwen2", mask_token_id=3)  # biases of q, k and v alone
    for name, modules in (("some", ["q_proj", "k_proj"]), ("more", ["q_proj", "o_proj", "up_proj"])):
        config = peft.LoraConfig(r=2, lora_bias=True, target_modules=modules)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(load_model(tmp_path / "base"), config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
        model.save_pretrained(str(tmp_path / name), save_embedding_layers=False)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_adapter(load_model(tmp_path / "base"), tmp_path / name)
            expected = model(input_ids=tokens(2, 7)).logits
            torch.testing.assert_close(loaded(input_ids=tokens(2, 7)).logits, expected, atol=1e-4, rtol=1e-4)
        status = main(["merge", str(tmp_path / name), "--output", str(tmp_path / "out" / name)])
        if name == "some":
            merged = load_model(tmp_path / "out" / name)
            with torch.no_grad():
                torch.testing.assert_close(merged(tokens(2, 7)).logits, expected, atol=1e-3, rtol=1e-4)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert (
        "lora_bias, and its base has no bias in model.layers.0.self_attn.o_proj, model.layers.0.mlp.up_proj, " in line
    )
    assert not (tmp_path / "out" / "more").exists()


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({"target_modules": ["q_proj"]}, r"(lm_head|model\.embed_tokens)\.weight"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"model\.embed_tokens\."),
        ({"target_modules": ["q_proj", "lm_head"]}, r"lm_head\."),
    ],
)
def test_another_vocabulary(fields: dict[str, Any], weight: str, tmp_path: Path) -> None:
    """Two tokens were added to the base before the adapter was trained."""
    plain_checkpoint(tmp_path / "base", "llama", mask_token_id=3)
    plain_checkpoint(tmp_path / "wide", "llama", mask_token_id=3, vocab_size=50)
    model = peft.get_peft_model(load_model(tmp_path / "wide"), peft.LoraConfig(r=2, **fields))
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=fields["target_modules"] == ["q_proj"])
    message = rf"adapter .* has a vocabulary of 50 tokens \(base_model\.model\.{weight}.*\), its base one of 48"
    with pytest.raises(ValueError, match=message):
        load_adapter(load_model(tmp_path / "base"), tmp_path / "adapter")
    with pytest.raises(ValueError, match=message):
        merge(tmp_path / "adapter", tmp_path / "out", base=tmp_path / "base")


def test_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest whole checkpoint of a real run, or the one named; its tokenizer where the base has none. Nothing is
    asked of the network, not by peft's look for embeddings either."""

    def asked(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"the network is asked: {arguments}")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    monkeypatch.setattr("socket.getaddrinfo", asked)
    run, bare = tmp_path / "run", tmp_path / "bare"
    quick = ["max_steps=2", "save_steps=1", "num_prompts=1", "num_generations=2", "eval_prompts=2", "eval_steps=0"]
    assert main(["train", "sudoku-tiny", f"output_dir={run}", "lora_r=2", "learning_rate=0.1", *quick]) == 0
    first, second = list_checkpoints(run / "checkpoints")
    assert trained_folder(run) == second / "adapter"
    save_model(load_model("sudoku-tiny"), bare)
    assert "sudoku-tiny, llada layout" in merge(run, tmp_path / "newest")
    assert "bare, llada layout, torch.float32, with tokenizer" in merge(
        first, tmp_path / "first", base=bare, layout="llada"
    )
    ids = tokens(2, 9, load_model("sudoku-tiny").config.vocab_size)
    logits = [load_model(tmp_path / name)(ids).logits for name in ("newest", "first")]
    for found, step in zip(logits, (second, first), strict=True):
        adapted = load_adapter(load_model("sudoku-tiny"), step / "adapter")
        torch.testing.assert_close(found, adapted(input_ids=ids).logits, atol=1e-3, rtol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.1
    assert load_tokenizer(tmp_path / "first")("1234")["input_ids"] == load_tokenizer("sudoku-tiny")("1234")["input_ids"]

    weights = second / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"step-2 is damaged: adapter/adapter_model\.safetensors"):
        merge(second, tmp_path / "damaged")
    assert trained_folder(run) == first / "adapter"
    assert "step-2 is damaged" in caplog.text
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        merge(run, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_a_whole_model_is_written_anew(tmp_path: Path) -> None:
    assert "llada layout" in merge(LLADA, tmp_path / "out")
    assert all(
        torch.equal(weight, load_model(LLADA).state_dict()[name])
        for name, weight in load_model(tmp_path / "out").state_dict().items()
    )
    with pytest.raises(ValueError, match="base has no use"):
        merge(LLADA, tmp_path / "again", base=LLADA)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    for name in ("full", "full/notes"):
        assert main(["merge", str(LLADA), "--output", str(tmp_path / name)]) == 2
        assert "must be absent or an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]
    (tmp_path / "empty").mkdir()
    merge(LLADA, tmp_path / "empty")
    assert load_model(tmp_path / "empty")


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {}, "names no base model"),
        ({"base_model_name_or_path": str(LLADA), "revision": "v2"}, {}, "revision 'v2'"),
        ({"base_model_name_or_path": "/no/such/base"}, {}, "/no/such/base"),
        ({"base_model_name_or_path": "/no/such/base"}, {"base": "sudoku-tiny"}, "has shape"),
        ({"base_model_name_or_path": str(LLADA)}, {"layout": "gguf"}, "layout"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, fields: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    write_adapter(tmp_path / "adapter", LINEAR, **fields)
    with pytest.raises(ValueError, match=message):
        merge(tmp_path / "adapter", tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"], "neither half a checkpoint nor an empty folder"


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run, checkpoint, adapter or model"):
        trained_folder(tmp_path)
