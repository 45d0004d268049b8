"""Loading, making and saving masked diffusion language models: LLaDA, Dream, and Llama or Qwen made bidirectional.

No remote code is executed and no pickle is read.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)
from transformers.utils import logging as transformers_logging

from .checkpoint_files import check_weight_shapes, checkpoint_folder, read_json, read_weight_shapes
from .checkpoint_layout import (
    LLADA_KEY_MAPPING,
    llada_config_from_llama,
    llama_config_from_llada,
    llama_to_llada_name,
)
from .masked_lm import (
    Dream,
    MaskedLlama,
    MaskedLM,
    MaskedQwen2,
    MaskedQwen3,
    head_weight,
    hidden_states,
    lm_head,
    lora_target_modules,
    make_bidirectional,
    unwrap,
)
from .placement import check_nf4_rows, nf4_config, parse_device, parse_dtype

__all__ = [
    "MaskedLM",
    "head_weight",
    "hidden_states",
    "lm_head",
    "load_model",
    "load_tokenizer",
    "lora_target_modules",
    "new_model",
    "save_model",
    "unwrap",
]

log = logging.getLogger("dmpo")

_CLASSES: dict[str, type[MaskedLM]] = {
    "llama": MaskedLlama,
    "qwen2": MaskedQwen2,
    "qwen3": MaskedQwen3,
    "Dream": Dream,
}


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    mask_id: int | None = None,
    load_in_4bit: bool = False,
) -> MaskedLM:
    """Load a LLaDA, Dream, Llama, Qwen2 or Qwen3 checkpoint as a bidirectional masked language model, in eval mode.

    Args:
        path: checkpoint folder (config.json and safetensors, sharded or not), or a Hugging Face Hub id.
        dtype: of the weights, e.g. torch.bfloat16 or "bfloat16"; None keeps the checkpoint's.
        device: where the weights go; None is the CPU.
        attn_implementation: transformers' name: "sdpa" (default), "eager", "flash_attention_2", ...
        mask_id: id of the mask token; None takes `mask_token_id` of config.json.
        load_in_4bit: quantise the linear layers of the blocks to NF4 as they are read, scales quantised too (QLoRA,
            arXiv 2305.14314), about 0.52 bytes a weight. Embeddings, norms and head are in `dtype`, and products are
            taken in it; None is bfloat16 then. Needs bitsandbytes (`pip install 'dmpo[quant]'`), on a GPU or the CPU.

    The model's config carries `mask_token_id`, `eos_token_id`, `pad_token_id` (EOS if the checkpoint names none) and
    `is_causal=False`. `save_pretrained` and `save_model` write folders that load again here.

    Raises:
        ValueError: folder, config.json or shard missing; file truncated; only pickled weights; weights missing, left
            over or of the wrong shape; unsupported architecture or variant; no mask token; an adapter's folder; a
            dtype, device or attention that does not exist; a device that bitsandbytes cannot quantise on;
            4 bits on the CPU with layer widths that are no multiples of 64.
        ImportError: flash attention or 4 bits are asked for and not installed.
    """
    weights_dtype, target = parse_dtype(dtype), parse_device(device)
    quantization = nf4_config(weights_dtype, target) if load_in_4bit else None
    if quantization:
        weights_dtype = quantization.bnb_4bit_compute_dtype
    folder = checkpoint_folder(path)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds an adapter: load its base model, then dmpo.load_adapter on that")
    fields = read_json(folder / "config.json")
    try:
        config = bidirectional_config(fields, mask_id)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    config._attn_implementation = attn_implementation or "sdpa"
    model_class = _CLASSES[config.model_type]
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
        raise ValueError(f"checkpoint {folder}: {sorted(report['missing_keys'])} did not find their weights")
    _untie(model, folder)
    # What an adapter will call its base: a Hub id or embedded name as it is, a folder wherever one stands.
    model.name_or_path = str(folder.resolve()) if Path(path).expanduser().is_dir() else str(path)
    model._weight_conversions = None  # with it, save_pretrained would write LLaDA's names beside a Llama config
    return model


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


def save_model(
    model: nn.Module,
    folder: str | Path,
    layout: Literal["transformers", "llada"] = "transformers",
    *,
    max_shard_size: int | str = "5GB",
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model as safetensors and config.json; `load_model` gives it back bit-equal.

    Args:
        layout: "transformers" (every model; Llama and Qwen types then load in transformers itself, bidirectional), or
            "llada" (Llama types: the key names and config fields of the official LLaDA checkpoints).
        max_shard_size: of one file, in bytes or as "5GB"; more is split over several. Weight files that the folder
            held before are removed.
        state: its weights by name, where the model's own are spread over ranks; None for the model's own.

    A head that is tied to the embedding by name and differs from it is kept; the config then says that it is not tied.

    Raises:
        ValueError: unknown layout, a model that the layout cannot express or that is quantised, adapters not merged.
    """
    inner = unwrap(model)
    state = dict(inner.state_dict() if state is None else state)
    if getattr(inner, "is_loaded_in_4bit", False):
        raise ValueError("model was loaded in 4 bits, which no layout stores: save the adapter alone and merge it")
    if any("lora_" in name or ".base_layer." in name or ".modules_to_save." in name for name in state):
        raise ValueError("model carries adapters: merge them first (merge_and_unload), or save the adapter alone")
    config: Any = copy.deepcopy(inner.config)
    if config.tie_word_embeddings and "lm_head.weight" in state:
        head = state["lm_head.weight"]
        config.tie_word_embeddings = torch.equal(head, state.get("model.embed_tokens.weight", head))
        if config.tie_word_embeddings:
            state.pop("lm_head.weight")
    if layout == "llada":
        if not isinstance(inner, MaskedLlama):
            raise ValueError(f"layout 'llada' needs a Llama-type model, got {type(inner).__name__}")
        fields = json.dumps(llada_config_from_llama(config), indent=2)
        state = {llama_to_llada_name(name): weight for name, weight in state.items()}
    elif layout == "transformers":
        config.architectures, config.dtype = [inner.official_architecture], inner.dtype
        fields = config.to_json_string()
    else:
        raise ValueError(f"layout must be 'transformers' or 'llada', got {layout!r}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "config.json").write_text(fields.rstrip() + "\n", encoding="utf-8")
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder or Hub id, without remote code. Raises ValueError when there is none."""
    folder = checkpoint_folder(path)
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer: neither tokenizer.json nor tokenizer_config.json")
    # Dream ships its tokenizer as remote code; it is Qwen2's.
    is_dream = settings.is_file() and read_json(settings).get("tokenizer_class") == "DreamTokenizer"
    loader = Qwen2Tokenizer if is_dream else AutoTokenizer
    # A blank config, as transformers knows none of these types and would warn of a mismatch.
    has_foreign_config = (folder / "config.json").is_file() and (
        read_json(folder / "config.json").get("model_type") in ("llada", "Dream")
    )
    options: dict[str, Any] = {"config": PreTrainedConfig()} if has_foreign_config and not is_dream else {}
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **options
        )
    except Exception as error:  # the tokenizers library raises plain Exception on a broken file
        raise ValueError(f"{folder} holds no tokenizer that loads without remote code: {error}") from error
    return tokenizer


def bidirectional_config(fields: dict[str, Any], mask_id: int | None) -> PreTrainedConfig:
    model_type = fields.get("model_type")
    fields = fields | {name: _stated_dtype(name, fields[name]) for name in ("dtype", "torch_dtype") if name in fields}
    if model_type == "llada":
        config: PreTrainedConfig = llama_config_from_llada(fields)
    elif model_type in _CLASSES:
        # auto_map points at remote code; token ids that the file does not name must not take Llama's defaults.
        named = {key: value for key, value in fields.items() if key != "auto_map"}
        config_class: Any = _CLASSES[model_type].config_class
        config = config_class.from_dict({"bos_token_id": None, "eos_token_id": None} | named)
    else:
        raise ValueError(f"model_type {model_type!r} is not supported; these are: llada, {', '.join(_CLASSES)}")
    make_bidirectional(config, mask_id)
    return config


def _stated_dtype(name: str, value: Any) -> str | None:
    """The name of a dtype as transformers takes it; config.json may say "torch.bfloat16", too."""
    try:
        dtype = parse_dtype(value)
    except ValueError as error:
        raise ValueError(str(error).replace("dtype", name, 1)) from None
    return None if isinstance(dtype, str) else str(dtype).removeprefix("torch.")


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
