"""Pretraining of the embedded tiny model: Sudoku the way a sloppy teacher knows it.

Stage one teaches correct solutions of the training grids; stage two shows demonstrations of which most have a few
holes filled wrongly, so that the model still knows how, yet often answers badly: something for reinforcement learning
to mend.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from random import Random

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .kernels import linear_weighted_ce
from .likelihood import Completions, apply_head_to_views
from .masking import sample_views
from .models import new_model
from .randomness import derive_key
from .rewards import HOLES
from .tasks.sudoku import Sudoku4

TOKENS = ("<eos>", "<mask>", ".", "1", "2", "3", "4")


@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class PretrainConfig:
    """The recipe of `sudoku-tiny`.

    hidden_size, num_layers, num_heads, mlp_hidden_size: of the model.
    correct_steps, sloppy_steps: gradient steps on right and on sloppy demonstrations, `batch_size` puzzles each.
    sloppy_share: share of sloppy demonstrations with errors, `wrong_holes` holes each.
    learning_rate: peak of stage one (warm-up, then cosine to a tenth); stage two runs at `sloppy_learning_rate`.
    """

    output_dir: str
    seed: int = 0
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_hidden_size: int = 256
    batch_size: int = 128
    correct_steps: int = 2000
    learning_rate: float = 2e-3
    sloppy_steps: int = 250
    sloppy_learning_rate: float = 3e-4
    sloppy_share: float = 0.8
    wrong_holes: int = 2
    weight_decay: float = 0.01


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, for the embedded tasks."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<eos>",
        mask_token="<mask>",
        padding_side="left",
        model_max_length=64,
    )


def demonstration(row: dict[str, str], random: Random, wrong_holes: int) -> str:
    """The solution of a row, with that many of its holes filled wrongly."""
    cells = list(row["solution"])
    holes = [i for i, p in enumerate(row["puzzle"]) if p in HOLES]
    for hole in random.sample(holes, min(wrong_holes, len(holes))):
        cells[hole] = random.choice([digit for digit in "1234" if digit != cells[hole]])
    return "".join(cells)


def pretrain(config: PretrainConfig, on_step: Callable[[int, float], None] | None = None) -> PreTrainedModel:
    """Train the tiny model from scratch; the same config gives the same model on the same machine."""
    torch.manual_seed(config.seed)
    model = new_model(
        vocab_size=len(TOKENS) + 1,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        mlp_hidden_size=config.mlp_hidden_size,
        mask_id=TOKENS.index("<mask>"),
        eos_id=TOKENS.index("<eos>"),
        max_length=64,
        rope_theta=10_000.0,
        seed=config.seed,
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=config.weight_decay)
    task = Sudoku4()
    total = config.correct_steps + config.sloppy_steps
    for step in range(total):
        sloppy = step >= config.correct_steps
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, step)
        batch = _batch(task, config, step, sloppy)
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


def _batch(task: Sudoku4, config: PretrainConfig, step: int, sloppy: bool) -> Completions:
    prompts, completions = [], []
    for j in range(config.batch_size):
        index = derive_key(config.seed, "pretrain row", step, j)
        row, random = task.row("train", index), Random(index)
        wrong = config.wrong_holes if sloppy and random.random() < config.sloppy_share else 0
        prompts.append(_encode(row["prompt"]))
        completions.append(_encode(demonstration(row, random, wrong)))
    prompt_ids, tokens = torch.tensor(prompts), torch.tensor(completions)
    return Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), tokens, torch.ones_like(tokens).bool())


def _encode(text: str) -> list[int]:
    return [TOKENS.index(character) for character in text]


def _denoising_loss(model: PreTrainedModel, batch: Completions, key: int) -> Tensor:
    """Mean over the batch of the mean cross-entropy of masked tokens, one view each, rate U(0, 1)."""
    mask = sample_views(batch.eligible, 1, key=key, rate_range=(0.0, 1.0), antithetic=False)
    weights = torch.full((len(batch),), 1 / len(batch))

    def loss(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
        return linear_weighted_ce(hidden, head, batch.tokens, mask, weights, bias=bias)[0]

    return apply_head_to_views(model, batch, mask, model.config.mask_token_id, loss)


def as_dict(config: PretrainConfig) -> dict[str, object]:
    """The recipe, to be written beside the model."""
    return dataclasses.asdict(config)
