"""If these fail, the page is too large, loads something, shows text as HTML, or a mistake is not told in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from dmpo.view import write_page
from dmpo.view.page import LARGEST, without_wrapper
from dmpo.view.run_files import Run
from tests.small_runs import lines as lines_of
from tests.view.run_folders import HOSTILE, content_of, gallery, write_lines, write_results, write_run

ASSETS = Path(__file__).parents[2] / "dmpo" / "view" / "assets"


def test_the_page_of_a_run_lies_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    assert write_page([run]) == run / "view.html"
    assert write_page([run]) == run / "view.html", "a page is written over"
    monkeypatch.chdir(tmp_path)
    assert write_page([run, run]) == Path("view.html")
    assert write_page([str(run)], "new/folder/page.html") == Path("new/folder/page.html")
    results = write_results(tmp_path / "evaluated" / "results.jsonl")
    assert write_page([results]) == results.with_suffix(".html")
    assert write_page([results.parent]) == results.with_suffix(".html"), "its folder names the same results"


def test_a_run_of_a_thousand_steps_is_small_enough(tmp_path: Path) -> None:
    words = (" the", " so", "\n", " 12", " total", "ing", " =", "<|eot_id|>")
    run = write_run(
        tmp_path / "run", steps=1000, gradient_steps=8, logged=4, length=256, decode_steps=128, metrics=30, words=words
    )
    page = write_page([run])
    assert page.stat().st_size <= 8_000_000
    assert sum(len(group["cards"]) for group in gallery(content_of(page))["groups"]) == 500


def test_a_page_that_would_be_too_large_has_fewer_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", steps=20, gradient_steps=1, length=64)
    whole = write_page([run]).stat().st_size
    assert whole < LARGEST
    monkeypatch.setattr("dmpo.view.page.LARGEST", whole - 12_000)
    page = write_page([run])
    assert page.stat().st_size <= whole - 12_000
    assert "of 80 logged completions" in gallery(content_of(page))["remark"]


def test_nothing_of_a_completion_is_in_the_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, keys={"<b>key": HOSTILE})
    lines = lines_of(run, "completions.jsonl")
    lines[0] |= {"completion": HOSTILE, "prompt": HOSTILE, "tokens": None}
    write_lines(run / "completions.jsonl", lines)
    page = write_page([run])
    text = page.read_text()
    assert "owned" not in text
    assert text.count("<script") == text.count("</script>") == 3
    card = gallery(content_of(page))["groups"][0]["cards"][0]
    assert card["text"] == HOSTILE
    named = write_page([run.rename(tmp_path / "{{content}} <script> & name")])
    assert "<title>{{content}} &lt;script&gt; &amp; name · dmpo view</title>" in named.read_text()


def test_the_policy_names_each_script_and_forbids_the_rest(tmp_path: Path) -> None:
    text = write_page([write_run(tmp_path / "run")]).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[^']+' 'sha256-[^']+'", rules["script-src"])
    assert "connect-src" not in rules
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text[: text.index("packed-content")])


def test_scripts_make_no_html_of_text() -> None:
    for path in ASSETS.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|</script", path.read_text()
        )


def test_plotly_without_its_wrapper() -> None:
    whole = get_plotlyjs()
    short = without_wrapper(whole)
    assert 0 < len(whole) - len(short) < 1000
    assert "use strict" in short[:400]
    assert without_wrapper("something else") == "something else"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such run or file"),
        (
            "empty",
            "is not the folder of a run, because it has neither config.yaml nor metrics.jsonl; give the output_dir",
        ),
        ("run/checkpoints/step-2", "did you mean the run"),
        ("run/summary.json", "neither the folder of a run nor a file .jsonl"),
        (
            "run/metrics.jsonl",
            "is no file of results of an evaluation: its lines have no 'task'; to look at a run, give",
        ),
        ("text.jsonl", "it has no line that is a JSON object"),
        ("uneven.jsonl", "examples have 1 to 2 completions; wait for the evaluation to end"),
    ],
)
def test_mistakes(name: str, message: str, tmp_path: Path) -> None:
    (write_run(tmp_path / "run") / "checkpoints" / "step-2").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("hello\n")
    uneven = write_results(tmp_path / "uneven.jsonl", samples=2)
    write_lines(uneven, [json.loads(line) for line in uneven.read_text().splitlines()][1:])
    with pytest.raises(ValueError, match=r"\w") as raised:
        write_page([tmp_path / name])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_but_a_page_is_written_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"exists and is no page of dmpo view"):
        write_page([run], run / "metrics.jsonl")
    assert (run / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match=r"must be a file, got the folder"):
        write_page([run], tmp_path)
    with pytest.raises(ValueError, match=r"runs or files of results, not both"):
        write_page([run, write_results(tmp_path / "results.jsonl")], tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"needs the folder of a run"):
        write_page([])


def test_a_run_without_completions_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", logged=0)
    content = content_of(write_page([run]))
    reason = f"{run} has no completions, because it was trained with log_completions=0"
    assert gallery(content)["absent"] == [reason]
    assert [record.getMessage() for record in caplog.records] == [reason]
    taught = write_run(tmp_path / "taught", logged=0, keys={"batch_size": 8})  # a key of `dmpo sft`, which draws none
    assert gallery(content_of(write_page([taught])))["absent"] == []
    early = write_run(tmp_path / "early", steps=0, finished=False)
    for name in ("metrics.jsonl", "completions.jsonl", "timings.jsonl", "held_out.jsonl"):
        (early / name).unlink()
    (reason,) = gallery(content_of(write_page([early])))["absent"]
    assert "because it has taken no step" in reason


def test_damaged_files_cost_their_part_of_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text("a: [")
    (run / "summary.json").write_text("nonsense")
    content = content_of(write_page([run]))
    assert [remark.split(" is ")[0] for remark in content["remarks"]] == [
        str(run / "config.yaml"),
        str(run / "summary.json"),
    ]
    assert content["settings"] == []
    assert content["curves"]


def test_lines_that_go_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run cuts completions.jsonl between the two looks at it."""
    run, read = write_run(tmp_path / "run"), Run.completions

    def cut(self: Run, rounds: list[tuple[int, int, int]]) -> list[dict[str, object] | None]:
        path = self.path / "completions.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]) + b'{"st')
        return read(self, rounds)

    monkeypatch.setattr(Run, "completions", cut)
    shown = gallery(content_of(write_page([run])))
    assert [len(group["cards"]) for group in shown["groups"]] == [1, 4]


def test_results_of_an_evaluation(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results.jsonl", samples=2, decoders=("topk", "dual_cache"))
    content = content_of(write_page([path]))
    cells = content["cells"]
    assert cells["header"] == ["file", "task", "gen_length", "decoder", "examples", "pass@1", "pass@2", "answered"]
    assert [row[3] for row in cells["rows"]] == ["topk", "dual_cache"]
    assert [bar["label"] for bar in cells["bars"]] == [
        f"{d} · pass@{k}" for d in ("topk", "dual_cache") for k in (1, 2)
    ]
    assert cells["bars"][0]["value"] == pytest.approx(4.5 / 6, rel=1e-5)
    groups = gallery(content)["groups"]
    assert [group["heading"] for group in groups[:2]] == ["sudoku4 example 0", "sudoku4 example 1"]
    labels = [card["labels"][-1] for card in groups[0]["cards"]]
    assert labels == ["wrong: no answer", "wrong"] * 2
    assert groups[0]["cards"][0]["numbers"] == [16, 4]
    both = content_of(write_page([path, write_results(tmp_path / "second" / "results.jsonl")], tmp_path / "both.html"))
    assert len(both["sources"]) == 2
    assert "pass@2" in both["cells"]["header"]
