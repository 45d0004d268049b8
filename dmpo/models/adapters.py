"""Load LoRA adapters from disk, of our own runs or of other programs: read, check and rename their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .files import check_weight_shapes, checkpoint_folder, first_names, read_json
from .llada_layout import llada_to_llama_name, llama_to_llada_name
from .lora import adapt
from .masked_lm import MaskedLM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # begins the name of every weight, by peft's convention

# Fields of adapter_config.json that change what the adapter computes.
_COMPUTING = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern")
# Fields that follow from the names of the weights, fields of the initialisation, and fields without effect.
_DERIVED = {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
_INITIAL = {"init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
_INERT = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
_INERT |= {"inference_mode", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"}
_INITIAL_LEAVES_BASE = (None, True, False, "gaussian", "orthogonal", "eva")  # other values change the base weights


@dataclass(frozen=True)
class _Adapter:
    """The content of an adapter's folder. `names` maps the names in `weights` (Llama's) to the names in the file."""

    folder: Path
    fields: dict[str, Any]
    weights: dict[str, Tensor]
    names: dict[str, str]

    def name_in_file(self, name: str) -> str:
        """The name that a weight which the file lacks would have in the file."""
        if all(new == old for new, old in self.names.items()):
            return name
        return _PREFIX + llama_to_llada_name(name.removeprefix(_PREFIX))


def load_adapter(model: MaskedLM, path: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a LoRA adapter on a model, in place, and return it as a peft model in eval mode.

    It reads adapters of `dmpo train`, of peft on the same classes, and of peft on LLaDA's own modelling code. The names
    of the latter (`model.transformer.blocks.N.attn_out`, ...) are translated weight by weight. LLaDA's `ff_out` is the
    down projection of a block or the head; the full name of the weight decides. Half-precision weights become float32.

    Args:
        model: from `load_model`, without an adapter.
        path: folder with adapter_config.json and adapter_model.safetensors, or a Hub id.
        trainable: whether the adapter's weights get gradients.

    Raises:
        ValueError: the folder has no adapter or a pickled one; the adapter is no LoRA, or an unsupported variant;
            weights are missing, have a wrong shape, or belong to no module of the model; the vocabulary differs; or the
            adapter changes the head, which losses and decoders use directly (use `dmpo merge` first).
    """
    adapter = read_adapter(path)
    _check_vocabulary(model, adapter)
    if head := [name for name in adapter.weights if _module(name) == "lm_head"]:
        raise ValueError(
            f"adapter {adapter.folder} changes the head ({adapter.names[head[0]]}), but losses and decoders use the "
            "head without adapters; make a plain checkpoint with dmpo merge"
        )
    adapted = attach_adapter(model, adapter).eval()
    return adapted if trainable else adapted.requires_grad_(False)


def read_adapter(path: str | Path) -> _Adapter:
    """Read and check an adapter's folder without the model. Raises ValueError as `load_adapter` does."""
    folder = checkpoint_folder(path)
    fields = read_json(folder / CONFIG)
    _check_fields(folder / CONFIG, fields)
    if not (folder / WEIGHTS).is_file():
        if pickles := sorted(file.name for file in folder.glob("*.bin")):
            raise ValueError(
                f"{folder} has a pickled adapter ({pickles[0]}), but only safetensors files are loaded; save it as "
                f"{WEIGHTS}"
            )
        raise ValueError(f"{folder / WEIGHTS} does not exist")
    try:
        stored = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is truncated or not a safetensors file: {error}") from error
    if foreign := sorted(name for name in stored if not name.startswith(_PREFIX)):
        raise ValueError(f"adapter {folder}: names must start with {_PREFIX!r}, got {first_names(foreign)}")
    names = {llada_to_llama_name(name): name for name in stored}
    if not stored or len(names) < len(stored):
        raise ValueError(f"adapter {folder} has {'the same weight under two names' if stored else 'no weights'}")
    return _Adapter(folder, fields, {new: stored[old] for new, old in names.items()}, names)


def attach_adapter(model: MaskedLM, adapter: _Adapter) -> PeftModel:
    """The model with the adapter, which may change any module. Raises ValueError as `load_adapter` does."""
    _check_vocabulary(model, adapter)
    modules = dict(model.named_modules())
    if unknown := sorted(name for new, name in adapter.names.items() if _module(new) not in modules):
        raise ValueError(
            f"adapter {adapter.folder} has weights of modules that the model lacks: {first_names(unknown)}; give the "
            "base model of the adapter"
        )
    if model.config.tie_word_embeddings:
        for new, name in adapter.names.items():
            if _module(new) in ("lm_head", "model.embed_tokens"):
                raise ValueError(
                    f"adapter {adapter.folder} changes {name}, but the model ties the embeddings and the head, which "
                    "an adapter must not change"
                )
    adapted = adapt(model, _peft_config(model, adapter))
    # We give the state_dict, because peft would take the biases of lora_bias for DeepSpeed's shards.
    expected = get_peft_model_state_dict(adapted, adapted.state_dict(), save_embedding_layers=False)
    # peft also stores the base weight of an adapted embedding or head.
    base_weights = {f"{name}.base_layer.weight" for name in {_PREFIX + _module(new) for new in adapter.weights}}
    parameters = dict(adapted.named_parameters())
    expected |= {name: parameters[name] for name in base_weights & adapter.weights.keys() & parameters.keys()}
    try:
        check_weight_shapes(
            f"adapter {adapter.folder}",
            {adapter.names[name]: tuple(weight.shape) for name, weight in adapter.weights.items()},
            {
                adapter.names.get(name) or adapter.name_in_file(name): tuple(weight.shape)
                for name, weight in expected.items()
            },
            config=CONFIG,
        )
    except ValueError:
        adapted.unload()
        raise
    set_peft_model_state_dict(adapted, adapter.weights)
    return adapted


def adapter_base(fields: Mapping[str, Any]) -> str:
    """The path or Hub id of the base in adapter_config.json. Raises ValueError without a base or with a revision."""
    base, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{CONFIG} names no base model; give it with base")
    if revision not in (None, "main"):
        raise ValueError(f"{CONFIG} names revision {revision!r} of {base}; download it and give the folder with base")
    return base


def _check_vocabulary(model: MaskedLM, adapter: _Adapter) -> None:
    """Raise ValueError for an adapter that was trained after the embeddings of its base were resized."""
    vocab_size = model.config.vocab_size
    for new, weight in adapter.weights.items():
        if _module(new) not in ("model.embed_tokens", "lm_head") or weight.dim() != 2:
            continue
        vocab_axes = {"lora_A": None, "lora_B": 0, "lora_embedding_A": 1, "lora_embedding_B": None}
        _, is_lora, lora_name = new.partition(".lora_")
        axis = vocab_axes.get(f"lora_{lora_name.partition('.')[0]}") if is_lora else 0
        if axis is not None and weight.shape[axis] != vocab_size:
            raise ValueError(
                f"adapter {adapter.folder} has a vocabulary of {weight.shape[axis]} tokens ({adapter.names[new]}), its "
                f"base one of {vocab_size}; give the base with the resized embeddings on which the adapter was trained"
            )


def _peft_config(model: MaskedLM, adapter: _Adapter) -> LoraConfig:
    """peft's config with the full names of modules, so that peft matches none by the end of its name."""
    fields = {"r": 8, "lora_alpha": 8} | {key: adapter.fields[key] for key in _COMPUTING if adapter.fields.get(key)}
    targets = {_module(new): _module(old) for new, old in adapter.names.items() if re.search(r"\.lora_\w*[AB]\b", new)}
    for key, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        pattern = fields.get(key, {})
        values = {new: pattern.get(get_pattern_key(pattern, old), fields[default]) for new, old in targets.items()}
        fields[key] = {name: value for name, value in values.items() if value != fields[default]}
    return LoraConfig(
        **fields,
        target_modules=sorted(targets),
        modules_to_save=sorted({_module(name) for name in adapter.names if ".lora_" not in name} - set(targets))
        or None,
        base_model_name_or_path=model.name_or_path,
    )


def _check_fields(file: Path, fields: Mapping[str, Any]) -> None:
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type must be 'LORA', got {fields.get('peft_type')!r}")
    if fields.get("init_lora_weights") not in _INITIAL_LEAVES_BASE:
        raise ValueError(
            f"{file}: init_lora_weights {fields['init_lora_weights']!r} changed the base weights; convert the adapter "
            "to plain LoRA with peft (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    for key, value in fields.items():
        if key not in {*_COMPUTING, *_DERIVED, *_INITIAL, *_INERT} and value not in (None, False, {}, [], "none"):
            raise ValueError(f"{file}: {key}={value!r} is not supported")
    for key in ("r", "lora_alpha"):
        value = fields.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{file}: {key} must be a positive number, got {value!r}")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(fields.get(key) or {}, dict):
            raise ValueError(f"{file}: {key} must be an object, got {fields[key]!r}")


def _module(name: str) -> str:
    """The module of an adapter weight: `base_model.model.lm_head.lora_A.weight` -> `lm_head`."""
    inner, is_lora, _ = name.removeprefix(_PREFIX).partition(".lora_")
    return inner if is_lora else inner.rpartition(".")[0].removesuffix(".base_layer")
