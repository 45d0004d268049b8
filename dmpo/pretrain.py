"""Pretrain the embedded tiny models on demonstrations of a task.

Stage one shows right completions of training rows. Stage two shows sloppy demonstrations: most of them have mistakes.
After it the model can solve the task but often answers wrongly, so that reinforcement learning can improve it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .config.pretrain import PretrainConfig
from .kernels import linear_weighted_ce
from .models.new_models import new_model
from .models.tokenizer import pad_left
from .randomness import derive_key
from .rollouts.batch import Completions
from .rollouts.likelihood import apply_head_to_views
from .rollouts.masking import sample_views
from .tasks import Task, load_task
from .tasks.teachers import TEACHERS, Teacher

SPECIAL_TOKENS = ("<eos>", "<mask>")
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
        mask_id=SPECIAL_TOKENS.index("<mask>"),
        eos_id=SPECIAL_TOKENS.index("<eos>"),
        max_length=_POSITIONS,
        rope_theta=10_000.0,
        seed=config.seed,
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
    task, teacher = load_task(config.task, **config.task_options), TEACHERS[config.task]
    total = config.correct_steps + config.sloppy_steps
    for step in range(total):
        sloppy = step >= config.correct_steps
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, step)
        batch = _batch(task, teacher, tokenizer, config, step, sloppy)
        loss = _denoising_loss(model, batch, derive_key(config.seed, "pretrain views", step))
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


def _batch(
    task: Task,
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainConfig,
    step: int,
    sloppy: bool,
) -> Completions:
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
    prompt_ids, prompt_mask = pad_left(tokenizer, encoded, width)
    tokens = torch.tensor(_padded(answers, teacher.length))
    return Completions(prompt_ids, prompt_mask, tokens, torch.ones_like(tokens).bool())


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


def _padded(encoded: Sequence[list[int]], length: int) -> list[list[int]]:
    """The completions, padded with EOS to `length` tokens."""
    eos = SPECIAL_TOKENS.index("<eos>")
    return [ids + [eos] * (length - len(ids)) for ids in encoded]


def _denoising_loss(model: PreTrainedModel, batch: Completions, key: int) -> Tensor:
    """The mean cross-entropy of the masked tokens of one view, averaged over rows. Mask rates are from U(0, 1)."""
    mask = sample_views(batch.eligible, 1, key=key, rate_range=(0.0, 1.0), antithetic=False)
    weights = torch.full((len(batch),), 1 / len(batch))

    def loss(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
        return linear_weighted_ce(hidden, head, batch.tokens, mask, weights, bias=bias)[0]

    return apply_head_to_views(model, batch, mask, model.config.mask_token_id, loss)


def as_dict(config: PretrainConfig) -> dict[str, object]:
    """The recipe as a dict, to be written beside the model."""
    return dataclasses.asdict(config)
