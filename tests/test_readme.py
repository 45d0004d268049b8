"""If these fail, the README shows code that does not run or numbers that no command gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readme import TABLES, filled, insert
from tests.markdown import ROOT, Block, blocks, check_command, commands, links, run_block

PATH = ROOT / "README.md"
TEXT = PATH.read_text()


@pytest.mark.parametrize("block", blocks(TEXT, "python"), ids=lambda block: f"line {block.line}")
def test_python_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a block that trains owns a folder
    run_block(block, PATH, {})


@pytest.mark.parametrize("words", commands(TEXT), ids=" ".join)
def test_commands_exist_and_take_their_arguments(words: list[str]) -> None:
    check_command(words)


def test_links_lead_to_files() -> None:
    assert [target for target in links(TEXT) if not (ROOT / target).exists()] == []


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, tables in TABLES.items() for name in tables])
def test_a_table_is_the_measured_one(page: Path, name: str) -> None:
    content = TABLES[page][name]().strip()
    assert "|" in content or content.count(".") > 3, "a table or some sentences"
    assert f"<!-- {name} -->\n{content}\n<!-- /{name} -->" in page.read_text()


def test_every_table_is_put_where_it_belongs() -> None:
    for page in TABLES:
        assert filled(page.read_text(), page) == page.read_text()
    assert insert("a <!-- x -->\nold\n<!-- /x --> b", "x", "new") == "a <!-- x -->\nnew\n<!-- /x --> b"
    for text in ("", "<!-- x -->\n", "<!-- /x --><!-- x -->\n", "<!-- x -->\n<!-- x -->\n<!-- /x -->"):
        with pytest.raises(ValueError, match="wanted one <!-- x -->"):
            insert(text, "x", "new")


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 180
