"""A task whose prompts differ in length, and checkpoints that the tests of evaluation share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmpo.models import save_model
from dmpo.pretrain import character_tokenizer
from tests.tiny_models import tiny


class Ones:
    """Prompt: up to 24 digits, made without end, or `rows` of each split; solved by a 1 in the completion."""

    template = "{digits}"

    def __init__(self, rows: int | None = None, template: str = "{digits}") -> None:
        self.rows, self.template = rows, template

    def row(self, split: str, index: int) -> dict[str, Any]:
        index %= self.rows or 1 << 20
        digits = "".join("1234"[(index * 7 + i * i + len(split)) % 4] for i in range(1 + index * 5 % 24))
        return {"prompt": self.template.replace("{digits}", digits), "digits": digits}

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        return [float("1" in text) for text in completions]

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return "1" in completion

    def show(self, completion: str, row: dict[str, Any]) -> str:
        return completion

    def size(self, split: str) -> int | None:
        return self.rows

    def parse(self, completion: str, row: dict[str, Any]) -> str | None:
        return completion[:2] or None

    def demonstrate(self, row: dict[str, Any]) -> str:
        return "1" * len(row["digits"])


class Plain:
    """What a user's task has at least."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[index % 4]}

    reward, solved, show = Ones.reward, Ones.solved, Ones.show


ONES = f"{__name__}:Ones"


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A random model over the seven tokens of the character tokenizer: EOS, mask, '.', 1 to 4."""
    save_model(tiny(**({"vocab_size": 7, "mask_id": 1, "eos_id": 0, "max_length": 96} | changes)), folder)
    character_tokenizer().save_pretrained(folder)
    return folder
