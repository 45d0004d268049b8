"""If these fail, the checkpoint called best is not, is deleted, or another one is evaluated in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dmpo.trainer
from dmpo.cli import main
from dmpo.config.files import load_config
from dmpo.evaluation.held_out import Evaluation
from dmpo.evaluation.intervals import Accuracy
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.runner import evaluate_checkpoint
from dmpo.evaluation.source import find_source, trained_options
from dmpo.models import load_model
from dmpo.models.lora import add_lora
from dmpo.storage.checkpoints import best_step
from tests.evaluation.toys import ONES, checkpoint
from tests.small_runs import settings, trainer

SOLVED = {1: 2, 2: 7, 3: 7, 4: 5, 5: 6, 6: 1}  # greedy, of 8 validation rows, after each step; 2 and 3 tie


def config(model: Path | str, folder: Path, *overrides: str) -> EvalConfig:
    base = [f"model={model}", f"output_dir={folder}", f"tasks={ONES}", "gen_lengths=8", "limit=6"]
    return load_config(EvalConfig, None, [*base, "temperature=1.0", *overrides])


def metrics(run: Path, *lines: dict[str, Any]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_best_step(tmp_path: Path) -> None:
    def line(step: int, greedy: float | None, sampled: float = 0.0) -> dict[str, Any]:
        return {"step": step, "greedy_accuracy": greedy, "sampled_accuracy": sampled}

    run = metrics(
        tmp_path / "run", {"step": 1}, line(2, 0.5, 0.9), line(3, 0.6, 0.1), line(4, 0.6, 0.2), line(5, 0.6, 0.2)
    )
    assert best_step(run, range(9)) == 4  # better sampled than 3, earlier than 5
    assert best_step(run, [2, 3, 5]) == 5
    assert best_step(run, [2, 3]) == 3
    assert best_step(run, [1, 7]) is None
    assert best_step(metrics(tmp_path / "other", line(2, None), line(3, 0.0)), [2, 3]) == 3
    assert best_step(tmp_path / "absent", [1]) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that keeps one checkpoint, and whose validation accuracy is best after steps 2 and 3."""
    folder = tmp_path_factory.mktemp("selection") / "run"
    steps = [0]

    def evaluate(*args: Any, split: str) -> Evaluation:
        if split == "validation":
            steps.append(steps[-1] + 1)
        solved = SOLVED[steps[-1]] if split == "validation" else 8 * (steps[-1] == 6)  # on test, the last is best
        return Evaluation(Accuracy(0, 8), Accuracy(solved, 8), [], [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dmpo.trainer, "evaluate_on_ranks", evaluate)
        patch.setattr(dmpo.trainer, "plot_run", lambda *args: None)
        trainer(settings(folder, save_steps=1, eval_steps=1, save_total_limit=1)).train()
    return folder


def test_the_best_checkpoint_outlives_keep_last_n(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-2", "step-6"]


def test_checkpoints_of_a_run_are_chosen(run: Path, tmp_path: Path) -> None:
    def chosen(which: str) -> Path:
        return find_source(str(run), config(run, tmp_path, f"checkpoint={which}")).base

    assert chosen("best") == run / "checkpoints" / "step-2" / "model"
    assert chosen("newest") == chosen("step-6") == run / "checkpoints" / "step-6" / "model"
    best, newest = (load_file(chosen(which) / "model.safetensors") for which in ("best", "newest"))
    assert any(not torch.equal(best[name], newest[name]) for name in best)
    with pytest.raises(ValueError, match="checkpoint must be one of newest, best, step-2, step-6, got 'step-3'"):
        chosen("step-3")


def test_eval_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"tasks={ONES}", "gen_lengths=4", "limit=2", f"output_dir={tmp_path / 'eval'}"]
    assert main(["eval", str(run), "checkpoint=best", *keys]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "checkpoint=newest", *keys]) == 2
    assert "holds results of another evaluation" in capsys.readouterr().err
    untold = metrics(tmp_path / "untold", {"step": 2})
    (untold / "checkpoints").symlink_to(run / "checkpoints")
    assert main(["eval", str(untold), "checkpoint=best", *keys]) == 2
    assert "needs a validation accuracy of a kept checkpoint" in capsys.readouterr().err


def test_a_run_is_evaluated_with_the_prompt_it_was_trained_with(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / "run"
    shutil.copytree(run / "checkpoints", trained / "checkpoints")
    (trained / "config.yaml").write_text(f"task: {ONES}\ntask_options: {{template: '1{{digits}}'}}\n")
    summary = evaluate_checkpoint(config(trained, tmp_path / "1", "gen_lengths=4"))
    assert summary["tasks"][ONES]["template"] == "1{digits}"
    assert json.loads((tmp_path / "1" / "results.jsonl").read_text().splitlines()[0])["prompt"].startswith("1")
    step = trained / "checkpoints" / "step-6"
    assert trained_options(config(step, tmp_path)) == {ONES: {"template": "1{digits}"}}
    monkeypatch.chdir(step)
    for place in (trained, step / "model", Path(), Path("model"), step / ".." / "step-6"):
        assert trained_options(config(place, tmp_path)) == {ONES: {"template": "1{digits}"}}, place
    (linked := tmp_path / "linked").symlink_to(step / "model")
    monkeypatch.chdir(tmp_path)
    for adapter in (trained, step / "model", linked):
        on_base = config("some/base", tmp_path, f"adapter={adapter}")
        assert trained_options(on_base) == {ONES: {"template": "1{digits}"}}
    (beside := trained / "other").mkdir()
    for elsewhere in ("some/base", beside, step / ".." / ".." / ".." / "run" / "other"):
        assert trained_options(config(elsewhere, tmp_path)) == {}, "in no run's checkpoints"
    added = f"task_options={{'{ONES}': {{rows: 3}}}}"
    assert trained_options(config(trained, tmp_path, added)) == {ONES: {"template": "1{digits}", "rows": 3}}
    own = f"task_options={{'{ONES}': {{template: '2{{digits}}'}}}}"
    assert trained_options(config(trained, tmp_path, own)) == {ONES: {"template": "2{digits}"}}
    (trained / "config.yaml").write_text("colour: blue\n")
    with pytest.raises(ValueError, match=r"config\.yaml is no run's config: KeyError: 'task'"):
        trained_options(config(trained, tmp_path))


def test_an_adapter_is_put_on_its_base(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    torch.manual_seed(0)
    adapted = add_lora(load_model(base), rank=2, alpha=4, dropout=0.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    plain = evaluate_checkpoint(config(base, tmp_path / "1"))
    given = evaluate_checkpoint(config(base, tmp_path / "2", f"adapter={tmp_path / 'adapter'}"))
    alone = evaluate_checkpoint(config(tmp_path / "adapter", tmp_path / "3"))
    texts = [(tmp_path / n / "results.jsonl").read_text() for n in "123"]
    assert texts[0] != texts[1] == texts[2]
    assert (plain["adapter"], given["adapter"]) == (None, str(tmp_path / "adapter"))
    assert alone["base"] == given["base"]
    with pytest.raises(ValueError, match="is an adapter itself"):
        find_source(
            str(tmp_path / "adapter"), config(tmp_path / "adapter", tmp_path, f"adapter={tmp_path / 'adapter'}")
        )
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json: give a whole model as model"):
        find_source(str(base), config(base, tmp_path, f"adapter={base}"))
