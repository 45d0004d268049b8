"""If these fail, a mistake in `dmpo eval` costs more than the line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.cli import main
from tests.evaluation.toys import ONES, checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoint(tmp_path_factory.mktemp("models") / "model"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks=sudoku5"], "unknown task 'sudoku5', choose one of"),
        (["tasks=nothing:Here"], "cannot be imported"),
        (["tasks=[]"], "task must name at least one"),
        (["tasks=[sudoku4,sudoku4]"], "task must name at least one, and none twice"),
        (["tsk=sudoku4"], "unknown config key 'tsk', did you mean 'task'"),
        (["decoders=[topk,greedy]"], "unknown decoder 'greedy', choose one of topk"),
        (["decoders=[topk,nothing:Here]"], "decoder 'nothing:Here' cannot be imported"),
        (["decoders=builtins:str"], "decoder 'builtins:str' must return a policy"),
        (["decoders=topk", "threshold=0.9"], "threshold belongs to parallel, prefix_cache, dual_cache"),
        (["decoders=parallel", "threshold=7"], "threshold must be in [0, 1], got 7"),
        (["split=train"], "Input should be 'test' or 'validation'"),
        (["gen_lengths=[16,24]", "block_length=16"], "gen_length must be a positive multiple of block_length"),
        (["gen_lengths=15"], "gen_length must be a multiple of tokens_per_step 2, got 15"),
        (["gen_lengths=96"], "gen_length must leave room for a prompt in the 96 tokens that the model takes, got 96"),
        (["max_prompt_length=90"], "max_prompt_length + gen_length is 106, the model takes 96"),
        (["limit=0"], "eval_prompts must be 1 to"),
        (["limit=null"], "has no last row: set eval_prompts=N"),
        (["samples=2"], "temperature must be above 0 for 2 samples"),
        (["pass_at=2"], "pass_at must be 1 to samples 1, got 2"),
        (["shots=9"], "prompt has"),
        (["model=no/such/folder"], "no/such/folder"),
        (["adapter=no/such"], "no/such"),
        (["checkpoint=best"], "'best' needs the folder of a run as model"),
        (["task_options={gsm8k: {}}"], "task_options are for 'gsm8k', which is not one of the tasks"),
        ([f"task_options={{'{ONES}': {{colour: 1}}}}"], "task_options of"),
        (["seed=-1"], "seed must be 0 to"),
        (["dtype=int8"], "Input should be 'float32'"),
        (["steps=8", "tokens_per_step=4"], "give steps or tokens_per_step, not both, got 8 and 4"),
        (["steps=17"], "steps per block must be at most"),
        (["device=cuda:9"], "device must exist"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    overrides: list[str], message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "eval"
    base = [f"tasks={ONES}", "gen_lengths=16", "limit=3", f"output_dir={folder}"]
    assert main(["eval", *([] if "model=" in overrides[0] else [model]), *base, *overrides]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert not folder.exists()


def test_a_folder_of_something_else_is_left_alone(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    arguments = [model, f"tasks={ONES}", "gen_lengths=16", "limit=3", f"output_dir={tmp_path}"]
    assert main(["eval", *arguments]) == 2
    assert "is not empty and holds no evaluation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_config_file_with_overrides(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text(f"tasks: [{ONES}]\ngen_lengths: [16]\nlimit: 3\noutput_dir: {tmp_path / 'eval'}\n")
    assert main(["eval", model, "--config", str(config), "limit=2"]) == 0
    assert "2" in capsys.readouterr().out
    assert len((tmp_path / "eval" / "results.jsonl").read_text().splitlines()) == 2
