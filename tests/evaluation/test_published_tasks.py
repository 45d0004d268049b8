"""If this fails, `dmpo eval` does not run on LLaDA's layout and chat template with data in the real sets' schemas."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from dmpo.cli import main
from dmpo.tasks import TASKS
from tests.llada_checkpoint import llada_checkpoint
from tests.tasks.data_files import countdown_rows, gsm8k_rows, math500_rows, math_rows, write


def test_four_tasks_in_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    templates = [kind.TEMPLATE for kind in TASKS.values() if hasattr(kind, "TEMPLATE")]
    llada_checkpoint(tmp_path / "model", [*templates, *(row["question"] for row in gsm8k_rows(20))])
    files = {
        "gsm8k": (gsm8k_rows(9), gsm8k_rows(3, 40)),
        "math": (math_rows(9), math500_rows(3)),
    }
    options = {
        name: {
            "train": write(tmp_path / f"{name}-train.parquet", train),
            "test": write(tmp_path / f"{name}-test.jsonl", test),
            "validation_rows": 2,
        }
        for name, (train, test) in files.items()
    }
    options["countdown"] = {"train": write(tmp_path / "countdown.jsonl", countdown_rows(200))}
    folder = tmp_path / "eval"
    keys = ["gen_lengths=[4,8]", "tokens_per_step=4", "decoders=[topk,prefix_cache]", "shots=2", "limit=3"]
    tasks = "tasks=[gsm8k,math,countdown,sudoku9]"
    arguments = [str(tmp_path / "model"), tasks, f"task_options={json.dumps(options)}", f"output_dir={folder}", *keys]
    assert main(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "4 | topk" in (folder / "results.md").read_text()
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 2 * 2 * 3
    summary = json.loads((folder / "results.json").read_text())
    for name in ("gsm8k", "math", "countdown", "sudoku9"):
        assert name in printed
        shots = summary["tasks"][name]["shots"]
        assert len(shots) == 2
        assert not {prompt for prompt, _ in shots} & {line["prompt"] for line in lines}
    assert summary["tasks"]["gsm8k"]["shots"][0][1].rstrip().endswith("</answer>")
    # What is written is enough to be scored again without the data.
    again = tmp_path / "again"
    for name in ("gsm8k", "math", "countdown", "sudoku9"):
        saved = str(folder / "results.jsonl")
        assert main(["eval", "--rescore", saved, f"task={name}", f"output_dir={again / name}"]) == 0
        rescored = [json.loads(line) for line in (again / name / "results.jsonl").read_text().splitlines()]
        own = [line for line in lines if line["task"] == name]
        keep = ("index", "sample", "gen_length", "decoder", "completion", "answer", "score")
        assert [[line[key] for key in keep] for line in rescored] == [[line[key] for key in keep] for line in own]
