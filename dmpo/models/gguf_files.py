"""Autoregressive language models in GGUF files, read by transformers and the package gguf."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .files import check_weight_shapes, first_names
from .masked_lm import MaskedLM
from .model_types import CLASSES


def read_gguf_config(file: Path, architectures: tuple[str, ...]) -> PreTrainedConfig:
    """The config of the model in a GGUF file, after everything in the file that decides whether it loads was checked.

    Raises:
        ValueError: no GGUF file, or a damaged one; another architecture; experts; a scaled rotary embedding; no
            tokenizer; a weight missing, left over, of the wrong shape, or with a quantisation that cannot be read.
        ImportError: the package gguf is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"GGUF files are read by the package gguf: pip install gguf ({error})") from error
    try:
        reader = gguf.GGUFReader(file)
    except Exception as error:  # gguf and numpy raise what they stumble over
        raise ValueError(f"{file} is no GGUF file, or a damaged one: {error}") from error

    def field(name: str) -> Any:
        entry = reader.get_field(name)
        return None if entry is None else entry.contents()

    architecture = field("general.architecture")
    if architecture not in architectures:
        raise ValueError(f"{file}: architecture {architecture!r} is not supported; {', '.join(architectures)} are")
    if field(f"{architecture}.expert_count"):
        raise ValueError(f"{file}: its layers are mixtures of experts, and only dense layers are supported")
    scaling = field(f"{architecture}.rope.scaling.type")
    if scaling not in (None, "none") or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise ValueError(
            f"{file}: transformers does not read the scaling of its rotary embedding; convert the safetensors folder"
        )
    if reader.get_field("tokenizer.ggml.tokens") is None:
        raise ValueError(f"{file} holds no tokenizer")
    _check_quantisation(file, reader)
    config_class: Any = CLASSES[architecture].config_class
    head_dim = field(f"{architecture}.attention.key_length")  # transformers reads it of no Qwen
    config: PreTrainedConfig = config_class.from_pretrained(
        file.parent, gguf_file=file.name, **({} if head_dim is None else {"head_dim": head_dim})
    )
    if config.model_type != architecture:
        raise ValueError(f"{file}: transformers takes it for a {config.model_type!r}, and it says {architecture!r}")
    if hasattr(config, "_model_name_or_path"):
        del config._model_name_or_path
    names = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), config.num_hidden_layers
    )
    with torch.device("meta"):
        state = CLASSES[architecture](copy.deepcopy(config)).state_dict()
    check_weight_shapes(
        str(file),
        {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors},
        {
            str(names.get_name(name, try_suffixes=(".weight", ".bias"))): tuple(weight.shape)
            for name, weight in state.items()
        },
        optional={"output.weight"} if config.tie_word_embeddings else (),
        config="metadata",
    )
    return config


def _check_quantisation(file: Path, reader: Any) -> None:
    """Raise ValueError for a type of weights that gguf cannot dequantise: one row of each type is tried."""
    from gguf import dequantize

    for tensor_type, tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.items():
        try:
            dequantize(tensor.data[:1], tensor_type)
        except Exception as error:  # NotImplementedError today
            raise ValueError(
                f"{file}: {tensor.name} has the quantisation {tensor_type.name}, which cannot be read: {error}"
            ) from error


def load_gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with its chat template. Raises ValueError if transformers cannot read it."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # transformers' converters raise what they stumble over
        raise ValueError(f"{file}: transformers cannot read its tokenizer: {error}") from error
    return tokenizer


def load_gguf_model(file: Path, config: PreTrainedConfig, dtype: torch.dtype) -> MaskedLM:
    """The model of a GGUF file, its weights dequantised to `dtype`, with the config of `read_gguf_config`.

    Raises ValueError if transformers leaves a weight packed, or without a value from the file.
    """
    gguf_config = getattr(transformers, "GgufConfig", None)  # older transformers always dequantise
    loaded: Any = CLASSES[config.model_type].from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        dtype=dtype,
        quantization_config=gguf_config(dequantize=True) if gguf_config else None,
        output_loading_info=True,
    )
    model, report = loaded
    packed = sorted(name for name, weight in model.state_dict().items() if weight.dtype != dtype)
    if bad := sorted(report["missing_keys"]) or packed:
        raise ValueError(f"{file}: transformers did not read {first_names(bad)}")
    # What transformers notes of the file would stand in config.json; the weights are plain by now.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model
