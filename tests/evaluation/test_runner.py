"""If these fail, the numbers of an evaluation depend on how it was run, or are of something else than it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo.cli import main
from dmpo.config.decoding import DECODERS
from dmpo.config.files import load_config
from dmpo.evaluation import work
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.runner import evaluate_checkpoint
from tests.evaluation.toys import ONES, checkpoint
from tests.ranks.launch import on_ranks, results

BASE = [f"tasks=[{ONES},sudoku4]", "gen_lengths=16", "decoders=[topk,wino]", "block_length=8", "tokens_per_step=4"]
BASE += ["temperature=1.0", "samples=2", "pass_at=[1,2]", "limit=5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed evaluation on one rank, a row at a time."""
    folder = tmp_path_factory.mktemp("whole") / "eval"
    run(model, folder, *BASE, "batch_size=1")
    return folder


def run(model: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    return evaluate_checkpoint(load_config(EvalConfig, None, [f"model={model}", f"output_dir={folder}", *overrides]))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_results(whole: Path) -> None:
    found = lines(whole)
    assert len(found) == 2 * 2 * 5 * 2
    assert len({line["completion"] for line in found}) > len(found) / 4, "samples and examples differ"
    first = found[0]
    assert (first["task"], first["index"], first["sample"], first["split"]) == (ONES, 0, 0, "test")
    assert first["columns"] == {"digits": first["prompt"]}
    assert all(line["score"] == ("1" in line["completion"]) for line in found if line["task"] == ONES)
    assert first["answer"] == (first["completion"][:2] or None)
    summary = json.loads((whole / "results.json").read_text())
    assert summary["tasks"][ONES]["template"] == "{digits}"
    assert summary["tasks"][ONES]["template_hash"] == first["template_hash"]
    cell = summary["cells"][0]
    own = [line for line in found if (line["task"], line["gen_length"], line["decoder"]) == (ONES, 16, "topk")]
    assert cell["pass@1"]["value"] == pytest.approx(sum(line["score"] for line in own) / 10)
    by_example = [max(line["score"] for line in own if line["index"] == i) for i in range(5)]
    assert cell["pass@2"]["value"] == pytest.approx(sum(by_example) / 5)
    assert cell["pass@2"]["low"] < cell["pass@2"]["value"] <= cell["pass@2"]["high"]
    assert cell["row_forwards"] == sum(line["steps"] for line in own) == cell["forwards"]  # a row at a time
    assert cell["tokens"] == sum(line["tokens"] for line in own)
    assert (whole / "results.png").read_bytes().startswith(b"\x89PNG")
    table = (whole / "results.md").read_text()
    assert "test split, temperature 1; 95 % intervals" in table
    assert table.count("\n|") == 2 + 4


def on_a_rank(model: Path, folder: Path, *overrides: str) -> int:
    """How many completions this rank decodes."""
    made: list[int] = []
    generate = work.generate

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(len(args[1]))
        return generate(*args, **kwargs)

    work.generate = counting
    run(model, folder, *overrides)
    return sum(made)


def test_two_ranks_go_on_after_a_kill_and_write_the_same(model: Path, whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    (killed / "parts").mkdir(parents=True)
    (killed / "evaluation.json").write_bytes((whole / "evaluation.json").read_bytes())
    part = (whole / "parts" / "rank-0.jsonl").read_bytes()
    cut = part[: int(0.4 * len(part))]
    assert not cut.endswith(b"\n"), "killed amid a line"
    (killed / "parts" / "rank-0.jsonl").write_bytes(cut)
    made = results(on_ranks(2, on_a_rank, model, killed, *BASE, "batch_size=5", folder=tmp_path / "ranks"))
    assert sum(made) == 2 * 2 * 5 * 2 - cut.count(b"\n"), "what was finished is not decoded again"
    assert min(made) > 0
    assert (killed / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


def test_one_rank_goes_on_after_two_with_another_batch_size(
    model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "eval"
    stopped = work.read_attempts
    calls = 0

    def stopping(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return stopped(*args)

    with monkeypatch.context() as patch:
        patch.setattr(work, "read_attempts", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(model, folder, *BASE, "batch_size=3")
    assert not (folder / "results.jsonl").exists()
    kept = (folder / "parts" / "rank-0.jsonl").read_bytes()
    (folder / "parts" / "rank-0.jsonl").rename(folder / "parts" / "rank-1.jsonl")  # as of a second rank
    run(model, folder, *BASE, "batch_size=100")
    assert (folder / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert (folder / "parts" / "rank-1.jsonl").read_bytes() == kept
    assert kept.count(b"\n") > 4


def test_a_folder_grows(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More examples, samples, decoders and tasks are added; what is there stays."""
    smaller = [f"tasks={ONES}", "gen_lengths=8", "tokens_per_step=4", "temperature=1.0", "limit=3"]
    larger = [f"tasks=[sudoku4,{ONES}]", *smaller[1:4], "limit=5", "samples=2", "decoders=[topk,random_order]"]
    first = lines_of(run, model, tmp_path / "eval", smaller)
    grown = lines_of(run, model, tmp_path / "eval", larger)
    assert len(grown) == 2 * 2 * 5 * 2
    for line in first:
        assert line in grown
    assert lines_of(run, model, tmp_path / "fresh", larger) == grown
    assert lines_of(run, model, tmp_path / "eval", smaller) == first


def lines_of(runner: Any, model: Path, folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    runner(model, folder, *overrides)
    return lines(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["seed=1"], "settings.seed was 0 and is now 1"),
        (["temperature=0.5"], "settings.temperature was 1.0 and is now 0.5"),
        (["split=validation"], "settings.split was 'test'"),
        (["shots=1"], "tasks.sudoku4.shots was [] and is now"),
        ([f"task_options={{'{ONES}': {{template: 'x{{digits}}'}}}}"], f"tasks.{ONES}.options"),
    ],
)
def test_results_of_another_evaluation_are_not_mixed_in(
    model: Path, whole: Path, changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    assert main(["eval", str(model), f"output_dir={whole}", *BASE, *changes]) == 2
    assert message in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}


def test_another_model_or_data_is_not_mixed_in(model: Path, whole: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"another evaluation: model\.base/model\.safetensors was"):
        run(other, whole, *BASE)
    (moved := tmp_path / "moved").symlink_to(model)
    run(moved, whole, *BASE)  # the same weights elsewhere
    part = whole / "parts" / "rank-0.jsonl"
    text = part.read_text()
    line = json.loads(text.splitlines()[0])
    try:
        for change, message in (
            ({"prompt": "4"}, r'the prompt of .* 4 was "4" and is now'),
            ({"columns": {"digits": "9"}}, r'the digits of .* 4 was "9" and is now'),  # a changed right answer
            ({"columns": {}}, "the digits of .* 4 was absent"),
            ({"columns": line["columns"] | {"hint": 1}}, "the hint of .* 4 was 1 and is now absent"),
        ):
            part.write_text(text.replace(json.dumps(line), json.dumps(line | change), 1))
            with pytest.raises(ValueError, match=f"completions of other data: {message}"):
                run(model, whole, *BASE)
    finally:
        part.write_text(text)


@pytest.mark.parametrize("decoder", DECODERS)
def test_steps_of_rows_are_the_row_forwards(decoder: Any, model: Path) -> None:
    """With rows that end early, and guidance where it applies: what a row took does not depend on its batch."""
    from dmpo.decoding import generate
    from dmpo.models import load_model

    options: dict[str, Any] = {"gen_length": 16, "block_length": 8, "steps": 8, "temperature": 1.0, "early_stop": True}
    prompts = torch.randint(2, 7, (5, 4), generator=torch.Generator().manual_seed(0))
    loaded = load_model(model)
    together = generate(loaded, prompts, decoder=decoder, cfg_scale=0.5, **options)
    # At first the rows without their prompt are alike, so one of the five passes.
    assert together.row_forwards == 2 * together.steps.sum() - 4
    alone = generate(loaded, prompts[2:3], decoder=decoder, row_ids=torch.tensor([2]), cfg_scale=0.5, **options)
    assert alone.steps.tolist() == together.steps[2:3].tolist() == [alone.forwards]
