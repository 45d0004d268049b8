"""If these fail, `make docs` warns, lacks a name or loads something from elsewhere, or a page of the root is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

import dmpo
from tests.markdown import ROOT, links, spans, unknown

NAMES = {
    *(f"dmpo.{name}" for name in dmpo.__all__),
    *(f"dmpo.kernels.{name}" for name in ("masked_token_logprobs", "linear_token_logprobs", "weighted_masked_ce")),
    *(f"dmpo.kernels.{name}" for name in ("linear_weighted_ce", "sample_tokens", "linear_sample_tokens", "remask_")),
    *(f"dmpo.rewards.{name}" for name in ("gsm8k", "math", "countdown", "sudoku")),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it. A warning is an error: mkdocs.yml says `strict`."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs-material and mkdocstrings are not installed (pip install 'dmpo[docs]')")
    folder = tmp_path_factory.mktemp("site")
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # where nothing listens
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **offline, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    assert {name for name in NAMES if f'id="{name}"' not in pages} == set()


def test_every_example_is_a_page(site: Path) -> None:
    shown = {path.stem for path in (site / "examples").glob("*.html")}
    assert shown == {path.stem for suffix in ("py", "ipynb") for path in (ROOT / "examples").glob(f"*.{suffix}")}


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"')
    assert {path.name: hits for path in site.rglob("*.html") if (hits := loads.findall(path.read_text()))} == {}


def test_links_out_of_the_docs_lead_to_copies(site: Path) -> None:
    for page in site.glob("*.html"):
        targets = re.findall(r'href="(repository/[^"#]+)"', page.read_text())
        assert [target for target in targets if not (site / target).is_file()] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_pages_of_the_root_name_what_exists(name: str) -> None:
    page = (ROOT / name).read_text()
    assert {span: missing for span in spans(page) if (missing := unknown(span))} == {}
    assert [target for target in links(page) if not (ROOT / target).exists()] == []


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dmpo.__version__
    assert re.search(
        rf'^version = "{re.escape(dmpo.__version__)}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert citation["references"][0]["url"].endswith("2510.08233")


def test_make_docs_is_not_quiet() -> None:
    """With --quiet, mkdocs neither shows warnings nor counts them: `strict` would let them pass."""
    assert "-m mkdocs build\n" in (ROOT / "Makefile").read_text()


def test_forge_and_hooks_call_what_exists() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.13"]
    assert job["steps"][-1]["run"].startswith("make test ")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["id"] for hook in local["hooks"]] == ["ruff", "ruff-format", "mypy", "absolute-paths"]
    scripts = [word for hook in local["hooks"] for word in hook["entry"].split() if word.endswith(".py")]
    assert all((ROOT / script).is_file() for script in scripts)


def absolute_paths() -> Any:
    spec = spec_from_file_location("absolute_paths", ROOT / ".ci" / "absolute_paths.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users"])
def test_a_path_of_a_machine_is_refused(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = absolute_paths()
    path = tmp_path / "page.md"
    path.write_text(f"first\nsee /{folder}/someone/dmpo\n")
    assert script.main([str(path)]) == 1
    assert f"{path}:2: /{folder}/someone is a path of one machine" in capsys.readouterr().out
    path.write_text(f"see https://host/{folder}/someone, runs/{folder}/one, docs/maths.md and /usr/bin/env\n")
    assert script.main([str(path)]) == 0


def test_the_repository_has_no_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout: git lists no files")
    script, results = absolute_paths(), "benchmarks/results/"  # logs of measurements, as they were
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith(results)]
    texts = [file for file in files if file.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".h", ".cpp", ".cu")]
    assert script.main([str(file) for file in texts]) == 0
