"""Pretrain the embedded tiny models on demonstrations of a task, by the loss of `dmpo sft`.

Stage one shows right completions of training rows. Stage two shows sloppy demonstrations: most of them have mistakes.
After it the model can solve the task but often answers wrongly, so that reinforcement learning can improve it.

The loop is no `TrainingRun`: two stages have each a learning rate of their own, and there is no folder to resume.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .config.pretrain import PretrainConfig
from .config.sft import SFTConfig
from .models.new_models import new_model
from .objectives.denoising import loss_of_pass, masked, passes
from .randomness import derive_key
from .rollouts.demonstrations import Demonstration, sequences
from .tasks import Task, load_task
from .tasks.teachers import TEACHERS, Teacher

SPECIAL_TOKENS = ("<eos>", "<mask>")
_EOS, _MASK = range(2)
_POSITIONS = 64  # the most tokens of an embedded model: prompt and completion together


def character_tokenizer(task: str = "sudoku4") -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded models: a token is a character, or a longer token of the task's teacher."""
    tokens = (*SPECIAL_TOKENS, *TEACHERS[task].tokens)
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<eos>"))
    pattern = "|".join([*(re.escape(token) for token in TEACHERS[task].tokens if len(token) > 1), "."])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        mask_token="<mask>",
        padding_side="left",
        model_max_length=_POSITIONS,
    )


def pretrain(config: PretrainConfig, on_step: Callable[[int, float], None] | None = None) -> PreTrainedModel:
    """Train the tiny model from scratch. The same config gives the same model on the same machine.

    Raises:
        ValueError: the teacher cannot demonstrate the rows, or they do not fit its tokens or the model's positions.
    """
    torch.manual_seed(config.seed)
    tokenizer = character_tokenizer(config.task)
    model = new_model(
        vocab_size=len(tokenizer) + 1,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        mlp_hidden_size=config.mlp_hidden_size,
        mask_id=_MASK,
        eos_id=_EOS,
        max_length=_POSITIONS,
        rope_theta=10_000.0,
        seed=config.seed,
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
    task, teacher = load_task(config.task, **config.task_options), TEACHERS[config.task]
    keys = _keys_of_loss(config, teacher)
    total = config.correct_steps + config.sloppy_steps
    for step in range(total):
        sloppy = step >= config.correct_steps
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, step)
        rows = _demonstrations(task, teacher, tokenizer, config, step, sloppy)
        whole = sequences(rows, range(len(rows)), padding="full", length=teacher.length, eos_id=_EOS)
        batch = masked(whole, derive_key(config.seed, "pretrain views", step), keys)
        (all_rows,) = passes(batch, keys, _MASK, rows=len(rows))
        loss = loss_of_pass(model, all_rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, loss.item())
    return model.eval()


def _learning_rate(config: PretrainConfig, step: int) -> float:
    if step >= config.correct_steps:
        return config.sloppy_learning_rate
    warmup = min(1.0, (step + 1) / 100)
    return config.learning_rate * warmup * (0.55 + 0.45 * math.cos(math.pi * step / config.correct_steps))


def _keys_of_loss(config: PretrainConfig, teacher: Teacher) -> SFTConfig:
    """The loss: the mean of the masked tokens of a row, averaged over rows, at mask rates from U(0, 1)."""
    keys: dict[str, Any] = {"model": "new", "task": config.task, "output_dir": config.output_dir}
    keys |= dict.fromkeys(("gen_length", "block_length", "steps"), teacher.length)
    keys |= {"max_prompt_length": _POSITIONS - teacher.length, "batch_size": config.batch_size}
    return SFTConfig(**keys, token_weights="mean", mask_rate_min=0.0, mask_rate_max=1.0)


def _demonstrations(
    task: Task,
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainConfig,
    step: int,
    sloppy: bool,
) -> list[Demonstration]:
    prompts, completions = [], []
    for j in range(config.batch_size):
        index = derive_key(config.seed, "pretrain row", step, j)
        row, random = task.row("train", index), Random(index)
        mistakes = config.mistakes if sloppy and random.random() < config.sloppy_share else 0
        prompts.append(row["prompt"])
        completions.append(teacher.demonstrate(task, row, random, mistakes))
    encoded, answers = (_encoded(texts, tokenizer, teacher) for texts in (prompts, completions))
    longest = max(map(len, answers))
    if longest > teacher.length:
        raise ValueError(
            f"a demonstration has {longest} tokens, but a completion of task {config.task} must have at most "
            f"{teacher.length}; change task_options"
        )
    width = max(map(len, encoded))
    if width + teacher.length > _POSITIONS:
        raise ValueError(
            f"a prompt has {width} tokens, and a completion {teacher.length}; together they must have at most "
            f"{_POSITIONS}; change task_options"
        )
    return [Demonstration(prompt, answer) for prompt, answer in zip(encoded, answers, strict=True)]


def _encoded(texts: list[str], tokenizer: PreTrainedTokenizerBase, teacher: Teacher) -> list[list[int]]:
    """The token ids of texts. Raises ValueError for a text that has more than the teacher's tokens."""
    encoded: list[list[int]] = tokenizer(texts)["input_ids"]
    for text, ids in zip(texts, encoded, strict=True):
        if min(ids, default=0) < len(SPECIAL_TOKENS):
            vocabulary = " ".join(map(repr, teacher.tokens))
            raise ValueError(
                f"the embedded model reads and writes only {vocabulary}, got {text!r}; change task_options"
            )
    return encoded


def as_dict(config: PretrainConfig) -> dict[str, object]:
    """The recipe as a dict, to be written beside the model."""
    return dataclasses.asdict(config)
