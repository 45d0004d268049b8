"""Small autoregressive checkpoints for tests of `dmpo convert`: safetensors folders and GGUF files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import plain_checkpoint

TEMPLATE = (
    "{% for m in messages %}<start>{{ m['role'] }}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}<|endoftext|>"
    "{% endfor %}{% if add_generation_prompt %}<start>assistant{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<start>", "<tool>", "<image>")
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))


def byte_tokenizer(special: Sequence[str] = SPECIAL, template: str | None = TEMPLATE, **named: str) -> Any:
    """A token is a byte or special. `named`: mask_token and the like.

    EOS is <|endoftext|>: transformers adds that token to the tokenizer of a Qwen2 that lacks it.
    """
    vocabulary = {token: token_id for token_id, token in enumerate((*special, *ALPHABET, "ab"))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    result = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"eos_token": "<|endoftext|>"} | named)
    result.chat_template = template
    return result


def source(folder: Path, kind: str = "llama", tokenizer: Any = None, **changes: Any) -> Any:
    """Write a causal checkpoint with a tokenizer, all rows of the embedding in use, and return its model."""
    tokenizer = tokenizer or byte_tokenizer()
    values = {"vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": None, "num_hidden_layers": 1} | changes
    model = plain_checkpoint(folder, kind, **values)
    tokenizer.save_pretrained(folder)
    return model


def write_gguf(
    path: Path,
    model: Any,
    *,
    quantised: Collection[str] = (),
    left_out: Collection[str] = (),
    surplus: str | None = None,
    unreadable: str | None = None,
    **fields: Any,
) -> None:
    """Write a model of `source` with the tokenizer of `byte_tokenizer` as GGUF, in float32 but for `quantised` in Q8_0.

    left_out: names of tensors, or "tokenizer". surplus: a tensor that the model does not have. unreadable: a tensor
    whose type no Python package unpacks. fields: further metadata; a name that begins with an underscore gets the
    architecture before it.
    """
    import gguf

    config = model.config
    architecture = fields.pop("architecture", config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if config.model_type == "qwen3":
        writer.add_key_length(config.head_dim)
    for name, value in fields.items():
        key = f"{architecture}.{name[1:].replace('__', '.')}" if name.startswith("_") else name.replace("__", ".")
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    if "tokenizer" not in left_out:
        tokens = [*SPECIAL, *ALPHABET, "ab"]
        normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_types([control] * len(SPECIAL) + [normal] * (len(tokens) - len(SPECIAL)))
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(0)
        writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type), config.num_hidden_layers
    )
    for name, weight in model.state_dict().items():
        gguf_name = str(names.get_name(name, try_suffixes=(".weight", ".bias")))
        if gguf_name in left_out or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        values = weight.numpy()
        if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = _interleaved(values, config.head_dim)
        if gguf_name == unreadable:
            kind = gguf.GGMLQuantizationType.Q8_K
            _, size = gguf.GGML_QUANT_SIZES[kind]
            writer.add_tensor(gguf_name, np.zeros((len(values), size), np.uint8), raw_dtype=kind)
        elif gguf_name in quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name, np.ascontiguousarray(values))
    if surplus:
        writer.add_tensor(surplus, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cut_gguf(source_file: Path, path: Path, layers: int) -> None:
    """Copy a GGUF file of a Llama with its first layers only."""
    import gguf

    reader = gguf.GGUFReader(source_file)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == "llama.block_count" else field.contents()
        kinds: list[Any] = [*field.types, None]
        writer.add_key_value(name, value, kinds[0], sub_type=kinds[1])
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of a Llama's queries or keys in llama.cpp's order: the two halves of a head take turns."""
    heads = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape)
