"""If these fail, `dmpo generate` completes another prompt than the one that was given, or with other weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from dmpo.cli import main
from dmpo.models import load_model
from dmpo.models.lora import add_lora
from dmpo.models.tokenizer import encode_prompt, load_tokenizer, prompt_text
from dmpo.pretrain import character_tokenizer
from tests.evaluation.toys import checkpoint
from tests.small_runs import lines, settings, trainer

PUZZLE, SOLVED = "123434122143432.", "1234341221434321"
TEMPLATE = "4{% for m in messages %}{{ m['content'] }}{% endfor %}43"


def output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["generate", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_an_embedded_model_needs_no_more_than_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "sudoku-tiny", PUZZLE]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{SOLVED}\n"
    told = "decoded as sudoku-tiny was trained: gen_length=16 block_length=16 steps=4 early_stop=false"
    assert printed.err.splitlines()[1] == told


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("models") / "base")


def test_an_adapter(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    adapted = add_lora(load_model(base), rank=2, alpha=4, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapter = str(tmp_path / "adapter")
    adapted.save_pretrained(adapter)
    alone = output([adapter, "1234", "gen_length=8"], capsys)
    assert alone != output([str(base), "1234", "gen_length=8"], capsys)
    assert alone == output([str(base), "1234", "gen_length=8", "--adapter", adapter], capsys)


def test_a_run_and_its_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: dict[str, Any] = {"max_steps": 2, "gradient_steps": 1, "save_steps": 1, "eval_steps": 1}
    folder = tmp_path / "run"
    trainer(settings(folder, **keys, learning_rate=0.1, warmup_steps=0, gen_length=8, steps=4)).train()
    capsys.readouterr()
    accuracies = [line | {"greedy_accuracy": 1 / line["step"]} for line in lines(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in accuracies))
    own = ["gen_length=8", "block_length=4", "steps=4", "early_stop=false"]
    first, second = (
        output([str(folder / "checkpoints" / f"step-{step}" / "model"), "1234", *own], capsys) for step in (1, 2)
    )
    assert first != second
    assert main(["generate", str(folder), "1234"]) == 0
    printed = capsys.readouterr()
    assert printed.out == second, "the newest, decoded as the run was trained"
    assert f"decoded as {folder} was trained: {' '.join(own)}" in printed.err
    assert output([str(folder), "1234", "checkpoint=best"], capsys) == first
    assert output([str(folder), "1234", "--checkpoint=step-1", "--dtype", "float32"], capsys) == first


def test_prompts_of_files(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["1234", "12", "4321.", "1", "22"]
    keys = ["gen_length=8", "temperature=1.0", "steps=4"]
    (text := tmp_path / "a.txt").write_text("\n".join(prompts) + "\n\n")
    (table_of_lines := tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"q": p, "answer": 7}) + "\n" for p in prompts)
    )
    (table := tmp_path / "c.csv").write_text("prompt,answer\n" + "".join(f"{p},7\n" for p in prompts))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": prompts}), parquet := tmp_path / "d.parquet")
    shown = output([str(base), "--prompts", str(text), *keys], capsys)
    assert shown.startswith("---- 1 of 5 ----\n")
    completions = re.split(r"---- \d of 5 ----\n", shown)[1:]
    written = tmp_path / "out.jsonl"
    more = ["--output", str(written), "--batch-size", "1"]
    assert "5 completions in" in output(
        [str(base), "--prompts", str(table_of_lines), "--column", "q", *keys, *more], capsys
    )
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert [row["completion"] + "\n" for row in rows] == completions, "batches change nothing"
    assert [(row["index"], row["prompt"], row["answer"]) for row in rows] == [(i, p, 7) for i, p in enumerate(prompts)]
    assert all(row["steps"] == 4 and row["tokens"] <= 8 for row in rows)
    for file in (table, parquet):
        assert output([str(base), "--prompts", str(file), *keys], capsys) == shown


def test_the_prompt_as_the_model_sees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = checkpoint(tmp_path / "chat")
    plain = output([str(model), "1234", "--show-prompt", "gen_length=4"], capsys)
    assert plain.startswith("4 tokens:\n1234\n\n")
    tokenizer = character_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(model))
    shown = output([str(model), "1234", "--show-prompt", "gen_length=4"], capsys)
    count, text, _, completion = shown.splitlines()
    loaded = load_tokenizer(model)
    assert text == prompt_text(loaded, {"prompt": "1234"}) == "4123443"
    assert count == f"{len(encode_prompt(loaded, {'prompt': '1234'}, 99))} tokens:"
    assert completion == output([str(model), "1234", "gen_length=4"], capsys).rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt after the model, or a file of prompts by --prompts FILE"),
        (["gen_length=16"], "give a prompt after the model"),
        (["1+1=2", "gen_lenght=4"], "did you mean 'gen_length'"),
        (["1", "--column", "q"], "--column q needs a file of prompts"),
        (["1", "--prompts", "{folder}/p.txt"], "give a prompt or --prompts, not both"),
        (["--prompts", "{folder}/absent.txt"], "absent.txt cannot be read"),
        (["--prompts", "{folder}/empty.txt"], "empty.txt has no prompt"),
        (["--prompts", "{folder}/p.doc"], "must end in one of .txt, .json"),
        (["--prompts", "{folder}/p.csv"], "has no column 'prompt', got question; name one by --column"),
        (["--prompts", "{folder}/null.jsonl"], "row 1: the prompt must be a text, or a list of messages"),
        (["1", "--output", "{folder}/p.txt"], "--output must end in .jsonl"),
        (["1", "--output", "{folder}/null.jsonl"], "null.jsonl exists: give another file"),
        (["1", "--output", "{folder}/no/o.jsonl"], "there is no folder"),
        (["1", "max_prompt_length=0"], "max_prompt_length must be ≥ 1"),
        (["1", "max_prompt_length=99"], "the model takes 64: give a max_prompt_length of at most 48"),
        (["1234", "max_prompt_length=2"], "prompt has 4 tokens, must be 1 to max_prompt_length 2"),
        (["1", "gen_length=64"], "gen_length must leave room"),
        (["1", "device=cuda:77"], "device must exist"),
        (["1", "checkpoint=best"], "'best' needs the folder of a run as model"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("1\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "p.csv").write_text("question\n1\n")
    (tmp_path / "null.jsonl").write_text('{"prompt": "1"}\n{"prompt": null}\n')
    assert main(["generate", "sudoku-tiny", *(word.format(folder=tmp_path) for word in arguments)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
