"""Loading masked diffusion language models: LLaDA, iLLaDA, Dream, SDAR, and Llama or Qwen turned bidirectional.

No remote code is executed and no pickle is read.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from .files import check_weight_shapes, checkpoint_folder, read_json, read_weight_shapes
from .llada_layout import LLADA_KEY_MAPPING, llama_to_llada_name
from .masked_lm import MaskedLM
from .model_config import bidirectional_config
from .model_types import CLASSES
from .placement import check_nf4_rows, nf4_config, parse_device, parse_dtype
from .refused import check_name

log = logging.getLogger("dmpo")


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    mask_id: int | None = None,
    eos_id: int | Sequence[int] | None = None,
    load_in_4bit: bool = False,
) -> MaskedLM:
    """Load a checkpoint as a bidirectional masked language model, in eval mode (docs/models.md lists the types).

    Args:
        path: checkpoint folder (config.json and safetensors, sharded or not), or a Hugging Face Hub id.
        dtype: of the weights, e.g. torch.bfloat16 or "bfloat16"; None keeps the checkpoint's.
        device: where the weights go; None is the CPU.
        attn_implementation: transformers' name: "sdpa" (default), "eager", "flash_attention_2", ...
        mask_id: id of the mask token; None takes `mask_token_id` of config.json, or that of the published models of its
            type (`model_types.MASK_IDS`).
        eos_id: id of the EOS token, or ids of several; None takes `eos_token_id` of config.json.
        load_in_4bit: quantise the linear layers of the blocks to NF4 as they are read, scales quantised too (QLoRA,
            arXiv 2305.14314), about 0.52 bytes a weight. Embeddings, norms and head are in `dtype`, and products are
            taken in it; None is bfloat16 then. Needs bitsandbytes (`pip install 'dmpo[quant]'`), on a GPU or the CPU.

    The model's config carries `mask_token_id`, `eos_token_id`, `pad_token_id` (EOS if the checkpoint names none) and
    `is_causal=False`. `save_pretrained` and `save_model` write folders that load again here.

    Raises:
        ValueError: folder, config.json or shard missing; file truncated; only pickled weights; weights missing, left
            over or of the wrong shape; unsupported architecture or variant; no mask token, or one outside the
            vocabulary, or one that is an EOS; an adapter's folder; a
            dtype, device or attention that does not exist; a device that bitsandbytes cannot quantise on;
            4 bits on the CPU with layer widths that are no multiples of 64.
        ImportError: flash attention or 4 bits are asked for and not installed.
    """
    weights_dtype, target = parse_dtype(dtype), parse_device(device)
    quantization = nf4_config(weights_dtype, target) if load_in_4bit else None
    if quantization:
        weights_dtype = quantization.bnb_4bit_compute_dtype
    check_name(path)
    folder = checkpoint_folder(path)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds an adapter: load its base model, then use dmpo.load_adapter")
    fields = read_json(folder / "config.json")
    try:
        config = bidirectional_config(fields, mask_id, eos_id)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    config._attn_implementation = attn_implementation or "sdpa"
    if getattr(config, "block_size", None):
        _check_block_causal(config, "block_size" in fields, folder / "config.json")
    model_class = CLASSES[config.model_type]
    llada_layout = fields["model_type"] == "llada"

    def checkpoint_name(name: str) -> str:
        return llama_to_llada_name(name) if llada_layout else name

    with torch.device("meta"):
        state = model_class(copy.deepcopy(config)).state_dict()
    check_weight_shapes(
        f"checkpoint {folder}",
        read_weight_shapes(folder),
        expected={checkpoint_name(name): tuple(weight.shape) for name, weight in state.items()},
        optional={checkpoint_name("lm_head.weight")} if config.tie_word_embeddings else (),
    )
    if quantization:
        check_nf4_rows({name: tuple(weight.shape) for name, weight in state.items()}, target)
    with _progress_bar(visible=sum(weight.numel() for weight in state.values()) > 10**8):
        loaded: Any = model_class.from_pretrained(
            folder,
            config=config,
            key_mapping=LLADA_KEY_MAPPING if llada_layout else None,
            use_safetensors=True,
            dtype=weights_dtype,
            device_map=None if target.type == "cpu" and not quantization else {"": target},
            quantization_config=quantization,
            local_files_only=True,
            output_loading_info=True,
        )
    model, report = loaded
    if report["missing_keys"]:
        raise ValueError(
            f"checkpoint {folder}: {sorted(report['missing_keys'])} are missing: the checkpoint is incomplete"
        )
    _untie(model, folder)
    # What an adapter will call its base: a Hub id or embedded name as it is, a folder wherever one stands.
    model.name_or_path = str(folder.resolve()) if Path(path).expanduser().is_dir() else str(path)
    model._weight_conversions = None  # with it, save_pretrained would write LLaDA's names beside a Llama config
    return model


def _check_block_causal(config: PreTrainedConfig, stated: bool, file: Path) -> None:
    """Raise ValueError for an attention without masks; warn where the size of the blocks is not stated."""
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attn_implementation must be sdpa or eager for block-causal attention, got {config._attn_implementation!r}"
        )
    if not stated:
        log.warning(
            "%s names no block_size: attention is block-causal with blocks of %d, the usual size of its type; a "
            "checkpoint with other blocks (SDAR's -b8 to -b64) needs block_size in its config.json",
            file,
            config.block_size,
        )


def _untie(model: MaskedLM, folder: Path) -> None:
    """Set `tie_word_embeddings` false, with a warning, where the checkpoint says true and holds a head of its own."""
    embeddings: Any = model.get_input_embeddings()
    if model.config.tie_word_embeddings and model.lm_head.weight is not embeddings.weight:
        model.config.tie_word_embeddings = False
        log.warning(
            "checkpoint %s says tie_word_embeddings true, and holds a head that differs from the embedding: both are "
            "kept, and a saved model says false",
            folder,
        )


@contextmanager
def _progress_bar(*, visible: bool) -> Iterator[None]:
    """transformers' loading bar, for the length of the context."""
    was_visible = transformers_logging.is_progress_bar_enabled()
    if not visible:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_visible:
            transformers_logging.enable_progress_bar()
