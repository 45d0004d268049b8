"""Masked diffusion language models: loading, hidden states apart from the head, saving.

A model here is transformers' Llama, Qwen2 or Qwen3 with every token attending to every other (`config.is_causal` False).
LLaDA is such a Llama under other names (`checkpoint_layout`); Dream is such a Qwen2 whose position j is predicted at j-1.
Remote code is never executed and pickled weights are never read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from .checkpoint_layout import (
    LLADA_KEY_MAPPING,
    llada_config_from_llama,
    llama_config_from_llada,
    llama_to_llada_name,
    read_config,
    read_weight_shapes,
)


class MaskedLM:
    """What a bidirectional masked language model adds to transformers' class: the head apart, and Dream's shift.

    `forward` is called like any transformers model and returns `.logits` [N, L, V] aligned to the predicted position.
    With `hidden_only=True` it returns the hidden states [N, L, H] that the head would be applied to. That this is
    `forward`, not another method, lets the hooks of DDP, peft and accelerate see the call.
    """

    prediction_shift: ClassVar[int] = 0  # position j is predicted by the backbone's output at j - prediction_shift

    model: nn.Module
    lm_head: nn.Linear

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        # The padding token is often EOS, whose embedding must keep its gradient.
        self.model.embed_tokens.padding_idx = None  # type: ignore[union-attr,assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        hidden_only: bool = False,
        logits_to_keep: int | Tensor = 0,
        labels: None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if labels is not None:
            raise ValueError("labels: a masked model has no next-token loss; apply dmpo.WDCELoss to the logits")
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
        )
        hidden = output.last_hidden_state  # [N, L, H]
        if self.prediction_shift:
            hidden = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
        if hidden_only:
            return hidden
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        result = CausalLMOutputWithPast(
            logits=self.lm_head(hidden[:, rows]),
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
        return result.to_tuple() if return_dict is False else result

    @classmethod
    def can_generate(cls) -> bool:
        return False

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("left-to-right generation does not fit a masked diffusion model; use dmpo.generate")


class MaskedLlama(MaskedLM, LlamaForCausalLM):
    """Bidirectional Llama; LLaDA is one."""


class MaskedQwen2(MaskedLM, Qwen2ForCausalLM):
    """Bidirectional Qwen2."""


class MaskedQwen3(MaskedLM, Qwen3ForCausalLM):
    """Bidirectional Qwen3."""


class DreamConfig(Qwen2Config):
    """Qwen2's config under the model type of Dream's checkpoints."""

    model_type = "Dream"


class Dream(MaskedLM, Qwen2ForCausalLM):
    """Bidirectional Qwen2 whose position j is predicted at j-1 (position 0 by itself), as Dream's sampler shifts its logits."""

    config: DreamConfig
    config_class = DreamConfig
    prediction_shift = 1


_CLASSES: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, MaskedLlama),
    "qwen2": (Qwen2Config, MaskedQwen2),
    "qwen3": (Qwen3Config, MaskedQwen3),
    "Dream": (DreamConfig, Dream),
}


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    mask_id: int | None = None,
) -> PreTrainedModel:
    """Load a LLaDA, Dream, Llama, Qwen2 or Qwen3 checkpoint as a bidirectional masked language model, in eval mode.

    Args:
        path: checkpoint folder (config.json and safetensors, sharded or not), or a Hugging Face Hub id.
        dtype: of the weights; None keeps the checkpoint's.
        device: where the weights are read to; None is the CPU.
        attn_implementation: transformers' name, "sdpa" (default), "eager", "flash_attention_2", ...
        mask_id: id of the mask token; None takes `mask_token_id` of config.json.

    The model's config carries `mask_token_id`, `eos_token_id`, `pad_token_id` and `is_causal=False`, so it also loads
    again after `save_pretrained`.

    Raises:
        ValueError: folder, config.json or shard missing; truncated file; pickled weights only; weights missing, left over
            or of the wrong shape; an unsupported architecture or variant; no mask token.
    """
    folder = _checkpoint_folder(path)
    fields = read_config(folder)
    model_type = fields.get("model_type")
    try:
        if model_type == "llada":
            config: PreTrainedConfig = llama_config_from_llada(fields)
        elif model_type in _CLASSES:
            config = _CLASSES[model_type][0].from_dict(fields)
        else:
            raise ValueError(f"model_type is {model_type!r}, supported are 'llada', {', '.join(map(repr, _CLASSES))}")
        _make_bidirectional(config, mask_id)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    model_class = _CLASSES[config.model_type][1]

    found = read_weight_shapes(folder)
    llada_layout = any(name.startswith("model.transformer.") for name in found)
    _check_weights(folder, found, model_class, config, llada_layout)
    model = model_class.from_pretrained(
        folder,
        config=config,
        key_mapping=LLADA_KEY_MAPPING if llada_layout else None,
        use_safetensors=True,
        dtype=_parse_dtype(dtype),
        device_map=None if device is None else {"": torch.device(device)},
        attn_implementation=attn_implementation or "sdpa",
        local_files_only=True,
    )
    model._weight_conversions = None  # or save_pretrained would write LLaDA's names beside a Llama config
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
) -> PreTrainedModel:
    """A LLaDA-type model of the given size with random float32 weights, the same for the same seed. pad_id None: eos_id."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=mlp_hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads or num_heads,
        max_position_embeddings=max_length,
        rms_norm_eps=rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=tie_embeddings,
        initializer_range=init_std,
        bos_token_id=None,
        eos_token_id=eos_id,
        attn_implementation=attn_implementation,
    )
    _make_bidirectional(config, mask_id)
    config.pad_token_id = None  # until the weights are drawn: transformers starts the padding token's embedding at zero
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedLlama(config).float()
    model.config.pad_token_id = eos_id if pad_id is None else pad_id
    return model.eval()


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The masked language model inside DDP, `torch.compile` and peft wrappers. Raises TypeError if there is none."""
    inner: Any = model
    while not isinstance(inner, MaskedLM):
        if hasattr(inner, "_orig_mod"):  # torch.compile
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model"):  # peft
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "module", None), nn.Module):  # DDP
            inner = inner.module
        else:
            raise TypeError(f"model must come from dmpo.load_model (wrapped or not), got {type(inner).__name__}")
    return inner  # type: ignore[return-value]


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Last hidden states [N, L, H] of `input_ids` int64 [N, L], aligned to the predicted position; the head is not run.

    Args:
        model: from `load_model`, wrapped or not; the call goes through the wrapper, so its gradient hooks fire.
        attention_mask: [N, L], 1 at real tokens and 0 at padding; or [N, 1, L, S] bool, True where attended.
        position_ids: int64 [N, L] or [1, L]; None counts from 0.
        kwargs: passed on to the backbone, e.g. `past_key_values`. With a cache, a Dream-type model needs the token
            before the first predicted one among its inputs (`unwrap(model).prediction_shift`).
    """
    unwrap(model)
    hidden: Tensor = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, hidden_only=True, **kwargs
    )
    return hidden


def lm_head(model: nn.Module, rows: Tensor) -> Tensor:
    """Logits [..., V] of chosen hidden rows [..., H], in the head's dtype."""
    head = _plain_head(model)
    logits: Tensor = head(rows.to(head.weight.dtype))
    return logits


def head_weight(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [V, H] and bias [V] (None: no bias) of the head, for kernels that never build the logits."""
    head = _plain_head(model)
    return head.weight, head.bias


def lora_target_modules(model: nn.Module) -> list[str]:
    """Names of the linear layers of the blocks (attention and MLP, never lm_head), as peft's `target_modules` wants them."""
    names = [name for name, module in unwrap(model).named_modules() if isinstance(module, nn.Linear)]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names if name != "lm_head"))


def save_model(
    model: nn.Module,
    folder: str | Path,
    layout: Literal["transformers", "llada"] = "transformers",
    *,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write the model as safetensors and config.json, to be loaded bit-equal by `load_model`.

    Args:
        layout: "transformers" (every model; Llama types also load in transformers itself), or "llada" (Llama types: the
            key names and config fields of the official LLaDA checkpoints).
        max_shard_size: bytes, or a string such as "5GB"; more is split over several files.

    Raises:
        ValueError: unknown layout, a model the layout cannot express, adapters that are not merged.
    """
    inner = unwrap(model)
    if any("lora_" in name or ".base_layer." in name for name, _ in inner.named_parameters()):
        raise ValueError("model carries adapters; merge them first (merge_and_unload), or save the adapter alone")
    if layout == "transformers":
        inner.save_pretrained(folder, max_shard_size=max_shard_size)
    elif layout == "llada":
        if not isinstance(inner, MaskedLlama):
            raise ValueError(f"layout 'llada' needs a Llama-type model, got {type(inner).__name__}")
        fields = llada_config_from_llama(inner.config)
        state = {
            llama_to_llada_name(name): weight
            for name, weight in inner.state_dict().items()
            if not (inner.config.tie_word_embeddings and name.startswith("lm_head."))
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
    else:
        raise ValueError(f"layout must be 'transformers' or 'llada', got {layout!r}")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder or Hub id, without remote code. Raises ValueError when there is none."""
    folder = _checkpoint_folder(path)
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer (tokenizer.json or tokenizer_config.json)")
    try:
        custom = settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        # Dream ships its tokenizer as remote code; it is Qwen2's.
        loader = Qwen2Tokenizer if custom == "DreamTokenizer" else AutoTokenizer
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no tokenizer that loads without remote code: {error}") from error
    return tokenizer


def _checkpoint_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"path {str(path)!r} is a file; a checkpoint folder is wanted")
    if not isinstance(path, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise ValueError(f"path {str(path)!r}: no such folder, and not a Hub id ('owner/name') either")
    try:
        # Top-level files only: weights, configs and tokenizer; no code, no pickles.
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(path, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:
        raise ValueError(f"path {path!r}: no such folder, and the Hub gave no such model: {error}") from error


def _make_bidirectional(config: PreTrainedConfig, mask_id: int | None) -> None:
    """Set the fields every model here has, in place."""
    mask_id = getattr(config, "mask_token_id", None) if mask_id is None else mask_id
    if mask_id is None:
        raise ValueError("mask_token_id is not set; pass mask_id, the id of the mask token")
    if not 0 <= mask_id < config.vocab_size:
        raise ValueError(f"mask_id must be in [0, {config.vocab_size}), got {mask_id}")
    eos_id = config.eos_token_id
    config.mask_token_id = mask_id
    if config.pad_token_id is None:
        config.pad_token_id = eos_id[0] if isinstance(eos_id, list) else eos_id
    config.is_causal = False
    config.use_cache = False


def _parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    if dtype is None:
        return "auto"
    parsed = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch dtype or its name, got {dtype!r}")
    return parsed


def _check_weights(
    folder: Path,
    found: dict[str, tuple[int, ...]],
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    llada_layout: bool,
) -> None:
    """Refuse a checkpoint that would leave a weight at random, drop one, or not fit, before anything big is read."""
    with torch.device("meta"):
        state = model_class(config).state_dict()
    expected = {
        llama_to_llada_name(name) if llada_layout else name: tuple(weight.shape) for name, weight in state.items()
    }
    head = llama_to_llada_name("lm_head.weight") if llada_layout else "lm_head.weight"
    optional = {head} if config.tie_word_embeddings else set()
    missing = sorted(expected.keys() - found.keys() - optional)
    left_over = sorted(name for name in found.keys() - expected.keys() if not name.endswith("rotary_emb.inv_freq"))
    for what, names in (("lacks", missing), ("has weights its config.json does not account for:", left_over)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"checkpoint {folder} {what} {shown}")
    for name in expected.keys() & found.keys():
        if found[name] != expected[name]:
            raise ValueError(f"checkpoint {folder}: {name} is {found[name]}, config.json asks for {expected[name]}")


def _plain_head(model: nn.Module) -> nn.Linear:
    head = unwrap(model).get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"lm_head is wrapped by an adapter ({type(head).__name__}); leave lm_head out of target_modules and modules_to_save"
        )
    return head
