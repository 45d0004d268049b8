"""Small runs of supervised fine-tuning that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmpo.config.sft import SFTConfig
from dmpo.pretrain import character_tokenizer
from dmpo.sft import SFTTrainer
from tests.small_runs import CountOnes
from tests.tiny_models import tiny


class Doubles(CountOnes):
    """Prompt: a digit; the answer has it one to three times. Twelve training rows."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        index %= self.size(split)
        digit = "1234"[index % 4]
        return {"prompt": digit, "digit": digit, "count": 1 + index // 4 % 3}

    def size(self, split: str) -> int:
        return {"train": 12}.get(split, 8)

    def demonstrate(self, row: dict[str, Any]) -> str:
        return str(row["digit"]) * int(row["count"])

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return completion.startswith(row["digit"])


def settings(folder: Path, **changes: Any) -> SFTConfig:
    values: dict[str, Any] = {
        "model": "tiny",
        "task": "sudoku4",
        "output_dir": str(folder),
        "dtype": "float32",
        "lora_r": 0,
        "batch_size": 6,
        "micro_batch_size": 4,
        "gen_length": 4,
        "block_length": 4,
        "steps": 2,
        "max_prompt_length": 4,
        "rollout_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "eval_prompts": 8,
        "eval_steps": 3,
        "save_steps": 3,
    }
    return SFTConfig(**(values | changes))


def trainer(config: SFTConfig, task: Any = None, **objects: Any) -> SFTTrainer:
    # token ids of the character tokenizer: 0 EOS, 1 mask, 2 '.', 3 to 6 the digits
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    usual: dict[str, Any] = {"model": model, "tokenizer": character_tokenizer(), "task": task or Doubles()}
    return SFTTrainer(config, **usual | objects)
