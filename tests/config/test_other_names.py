"""If these fail, the table for users of other packages names what does not exist, or an error says less than it."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import dmpo
from dmpo import DMPOConfig, DMPOTrainer
from dmpo.config.other_names import LEFT_OUT, PAGE, RENAMED, hint
from dmpo.run.callbacks import EVENTS
from tests.markdown import spans

ROOT = Path(__file__).parents[2]
KEYS = {field.name for field in fields(DMPOConfig)}
OBJECTS = {*inspect.signature(DMPOTrainer).parameters, *vars(dmpo)["__all__"]}


def section(title: str) -> str:
    return (ROOT / PAGE).read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table of a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith(("| ", "|--"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_same_names_are_keys() -> None:
    names = spans(section("The same name and the same meaning").partition("\n\nThe learning")[0])
    assert len(names) > 20
    assert set(names) <= KEYS


def test_the_names_of_the_table_exist_here() -> None:
    table = rows("Another name")
    assert len(table) > 25
    for theirs, ours, *_ in table:
        assert spans(ours), theirs
        assert set(spans(ours)) <= KEYS | OBJECTS, theirs


def test_every_name_of_the_tables_is_understood_as_a_key_too() -> None:
    """So that an error says what the page says."""
    for theirs, *_ in rows("Another name") + rows("Left out on purpose"):
        for name in spans(theirs):
            assert hint(name, KEYS) or name in OBJECTS | {
                "GRPOConfig",
                "GRPOTrainer",
                "processing_class",
                "peft_config",
            }
    on_page = {
        name for title in ("Another name", "Left out on purpose") for row in rows(title) for name in spans(row[0])
    }
    assert LEFT_OUT.keys() - on_page <= {"push_to_hub", "remove_unused_columns"}


def test_a_name_of_another_package_is_refused_with_what_to_write() -> None:
    assert not (RENAMED.keys() | LEFT_OUT.keys()) & KEYS
    for name, message in (
        ("max_completion_length", "unknown config key 'max_completion_length': here it is gen_length (docs/coming-"),
        (
            "modules_to_save",
            "unknown config key 'modules_to_save': dmpo has none, because LoRA trains adapters alone: ",
        ),
        ("vllm_mode", "unknown config key 'vllm_mode': dmpo has none, because vLLM decodes from left to right"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            DMPOConfig(model="a", task="b", output_dir="c", **{name: 1})  # type: ignore[arg-type]
    assert hint("learning_rat", KEYS) is None


@pytest.mark.parametrize("text", [*RENAMED.values(), *LEFT_OUT.values()])
def test_keys_that_a_hint_names_exist(text: str) -> None:
    known = KEYS | {"p_ref", "lm_head", "push_to_hub", "diffu_grpo"}
    assert [word for word in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", text) if word not in known] == []


def test_the_page_has_every_event() -> None:
    assert set(EVENTS) <= set(spans(section("Callbacks")))
