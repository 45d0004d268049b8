"""A model of LLaDA-8B's sizes with random weights, made on the device: 16 GB are too much to copy there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.memory.simulated_step import llama_config
from dmpo.config import DMPOConfig
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import MaskedLlama


@dataclass(frozen=True)
class Sizes:
    """Of the model, its adapters and the completions.

    rows: of a batch; decoding is timed with one row, with these and with many_rows. views: of a training micro-batch.
    """

    layers: int
    hidden: int
    mlp: int
    heads: int
    vocab: int
    rank: int
    prompt: int
    completion: int
    block: int
    rows: int
    many_rows: int
    views: int

    @property
    def canvas(self) -> int:
        return self.prompt + self.completion

    @property
    def mask_id(self) -> int:
        return self.vocab - 2

    def config(self) -> DMPOConfig:
        """A run whose rollouts, scores and updates have these sizes; all other keys have their defaults."""
        return DMPOConfig(
            model="",
            task="",
            output_dir="",
            num_prompts=2,
            num_generations=self.rows // 2,
            rollout_batch_size=self.rows,
            micro_batch_size=self.views,
            max_prompt_length=self.prompt,
            gen_length=self.completion,
            block_length=self.block,
            steps=self.completion // 2,
            lora_r=self.rank,
        )


ADAPTER_STD = 0.02
LLADA_8B = Sizes(32, 4096, 12288, 32, 126464, 128, 200, 256, 32, rows=16, many_rows=64, views=4)
REHEARSED = Sizes(2, 64, 128, 2, 1024, 4, 8, 16, 8, rows=4, many_rows=6, views=2)


def sizes_of(rehearse: bool) -> Sizes:
    return REHEARSED if rehearse else LLADA_8B


def random_model(sizes: Sizes, device: torch.device, seed: int) -> MaskedLlama:
    """In bfloat16, in evaluation mode; the weights never touch the host."""
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            config = llama_config(
                layers=sizes.layers, hidden=sizes.hidden, mlp=sizes.mlp, heads=sizes.heads, vocab=sizes.vocab
            )
            model: Any = MaskedLlama(config)
    finally:
        torch.set_default_dtype(before)
    found: MaskedLlama = model.eval()
    return found


def with_adapters(model: nn.Module, sizes: Sizes, device: torch.device) -> Any:
    """The model with float32 LoRA on all linear layers, in place; `unload()` of what is returned takes it off again.

    B, which LoRA starts with zeros, is random: an adapter that adds nothing would hide a fault of merging.
    """
    config = sizes.config()
    with torch.device(device):
        policy = add_lora(model, rank=sizes.rank, alpha=config.lora_alpha, dropout=config.lora_dropout)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=ADAPTER_STD)
    return policy.to(device).eval()


def random_ids(sizes: Sizes, rows: int, width: int, device: torch.device) -> Tensor:
    """Tokens int64 [rows, width], none of them special."""
    return torch.randint(0, sizes.vocab - 3, (rows, width), device=device)
