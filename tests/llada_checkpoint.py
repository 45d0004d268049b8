"""A tiny checkpoint that looks like LLaDA-8B-Instruct: its key names, its special tokens, its chat template."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dmpo.models import new_model, save_model

SPECIAL = (
    *("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}"
    "<|start_header_id|>{{ turn['role'] }}<|end_header_id|>\n\n{{ turn['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def llada_tokenizer(corpus: Iterable[str], vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a small corpus, with LLaDA's special tokens and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mdm_mask|>",
        additional_special_tokens=list(SPECIAL[3:]),
        padding_side="left",
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def llada_checkpoint(folder: Path, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Write model and tokenizer into a folder, in the layout of the official checkpoints."""
    tokenizer = llada_tokenizer(corpus)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_hidden_size": 24}
    ids: dict[str, Any] = {"mask_id": tokenizer.mask_token_id, "eos_id": tokenizer.eos_token_id}
    save_model(new_model(vocab_size=len(tokenizer), **ids, **sizes, init_std=0.2), folder, layout="llada")
    tokenizer.save_pretrained(folder)
    return tokenizer
