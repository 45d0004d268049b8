"""New masked diffusion language models with random weights."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from .masked_lm import MaskedLlama
from .model_config import make_bidirectional


def new_model(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    mlp_hidden_size: int,
    mask_id: int,
    eos_id: int,
    pad_id: int | None = None,
    max_length: int = 4096,
    num_kv_heads: int | None = None,
    rope_theta: float = 500_000.0,
    rms_norm_eps: float = 1e-5,
    tie_embeddings: bool = False,
    init_std: float = 0.02,
    attn_implementation: str = "sdpa",
    seed: int = 0,
) -> MaskedLlama:
    """A LLaDA-type model with random float32 weights, the same for the same seed, in eval mode.

    Sizes are counts, `max_length` is in tokens; `num_kv_heads` None is `num_heads`, `pad_id` None is `eos_id`. Raises
    ValueError for sizes that are not positive or do not divide, and token ids outside [0, vocab_size).
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
    sizes |= {"num_kv_heads": num_kv_heads, "mlp_hidden_size": mlp_hidden_size, "max_length": max_length}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if hidden_size % (2 * num_heads):
        raise ValueError(f"hidden_size must be a multiple of 2*num_heads, got {hidden_size} and num_heads={num_heads}")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads must be a multiple of num_kv_heads, got {num_heads} and {num_kv_heads=}")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=mlp_hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=max_length,
        rms_norm_eps=rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=tie_embeddings,
        initializer_range=init_std,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
    )
    config._attn_implementation = attn_implementation
    make_bidirectional(config, mask_id)
    pad_id, config.pad_token_id = config.pad_token_id, None  # transformers would start the padding embedding at zero
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedLlama(config).float()
    model.config.pad_token_id = pad_id
    return model.eval()
