"""LoRA adapters on disk, of our own runs or from elsewhere: read, checked, named as the model names its modules."""

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

from .checkpoint_files import check_weight_shapes, checkpoint_folder, first_names, read_json
from .checkpoint_layout import llada_to_llama_name, llama_to_llada_name
from .lora import adapt
from .masked_lm import MaskedLM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every weight's name, by peft's convention

# Fields of adapter_config.json that decide what the adapter computes, beside its weights.
_KEPT = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern")
# Those that the weights' names say better, that only speak of initialisation, or that compute nothing.
_DERIVED = {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
_INITIAL = {"init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
_INERT = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
_INERT |= {"inference_mode", "megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying"}
_INITIAL_LEAVES_BASE = (None, True, False, "gaussian", "orthogonal", "eva")  # others change the base weights


@dataclass(frozen=True)
class _Adapter:
    """What a folder holds. `names` takes the names in `weights` (Llama's) back to those in the file."""

    folder: Path
    fields: dict[str, Any]
    weights: dict[str, Tensor]
    names: dict[str, str]

    def in_its_layout(self, name: str) -> str:
        """What a weight that the file lacks would be called there."""
        if all(new == old for new, old in self.names.items()):
            return name
        return _PREFIX + llama_to_llada_name(name.removeprefix(_PREFIX))


def load_adapter(model: MaskedLM, path: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a LoRA adapter on a model, in place, and return it as a peft model in eval mode.

    Reads adapters of `dmpo train`, of peft on the same classes, and of peft on LLaDA's own modelling code, whose names
    (`model.transformer.blocks.N.attn_out`, ...) are translated weight by weight: LLaDA's `ff_out` is the block's down
    projection or the head, whichever the weight's full name says. Weights become float32 where they were narrower.

    Args:
        model: from `load_model`, without an adapter.
        path: folder with adapter_config.json and adapter_model.safetensors, or a Hub id.
        trainable: whether the adapter's weights take gradients.

    Raises:
        ValueError: no adapter there, or a pickled one; not LoRA, or a variant that is not supported; weights that are
            missing, misshapen, or have no place in the model, by name; another vocabulary; an adapter on the head,
            which losses and decoders use as it is: `dmpo merge` it first.
    """
    adapter = read_adapter(path)
    _check_vocabulary(model, adapter)
    if head := [name for name in adapter.weights if _module(name) == "lm_head"]:
        raise ValueError(
            f"adapter {adapter.folder} touches the head ({adapter.names[head[0]]}), which losses and decoders use "
            "unadapted: make a plain checkpoint of it with dmpo merge"
        )
    adapted = attach_adapter(model, adapter).eval()
    return adapted if trainable else adapted.requires_grad_(False)


def read_adapter(path: str | Path) -> _Adapter:
    """Read and check a folder on its own, without the model. Raises ValueError as `load_adapter` does."""
    folder = checkpoint_folder(path)
    fields = read_json(folder / CONFIG)
    _check_fields(folder / CONFIG, fields)
    if not (folder / WEIGHTS).is_file():
        if pickles := sorted(file.name for file in folder.glob("*.bin")):
            raise ValueError(f"{folder} holds a pickled adapter ({pickles[0]}); only safetensors files are loaded")
        raise ValueError(f"{folder / WEIGHTS} does not exist")
    try:
        stored = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is truncated or not a safetensors file: {error}") from error
    if foreign := sorted(name for name in stored if not name.startswith(_PREFIX)):
        raise ValueError(f"adapter {folder}: names must start with {_PREFIX!r}, got {first_names(foreign)}")
    names = {llada_to_llama_name(name): name for name in stored}
    if not stored or len(names) < len(stored):
        raise ValueError(f"adapter {folder} holds {'weights twice' if stored else 'no weights'}")
    return _Adapter(folder, fields, {new: stored[old] for new, old in names.items()}, names)


def attach_adapter(model: MaskedLM, adapter: _Adapter) -> PeftModel:
    """The model with the adapter on it, wherever that sits. Raises ValueError as `load_adapter` does."""
    _check_vocabulary(model, adapter)
    modules = dict(model.named_modules())
    if lost := sorted(name for new, name in adapter.names.items() if _module(new) not in modules):
        raise ValueError(f"adapter {adapter.folder} holds weights that the model has no place for: {first_names(lost)}")
    if model.config.tie_word_embeddings:
        for new, name in adapter.names.items():
            if _module(new) in ("lm_head", "model.embed_tokens"):
                raise ValueError(f"adapter {adapter.folder} changes {name}, which is tied to the other embedding")
    adapted = adapt(model, _peft_config(model, adapter))
    # With a state_dict of our own, as peft would take the biases of lora_bias for shards of DeepSpeed's.
    expected = get_peft_model_state_dict(adapted, adapted.state_dict(), save_embedding_layers=False)
    # peft stores the weight under an adapted embedding or head as well
    below = {f"{name}.base_layer.weight" for name in {_PREFIX + _module(new) for new in adapter.weights}}
    parameters = dict(adapted.named_parameters())
    expected |= {name: parameters[name] for name in below & adapter.weights.keys() & parameters.keys()}
    try:
        check_weight_shapes(
            f"adapter {adapter.folder}",
            {adapter.names[name]: tuple(weight.shape) for name, weight in adapter.weights.items()},
            {
                adapter.names.get(name) or adapter.in_its_layout(name): tuple(weight.shape)
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
    """Path or Hub id of the base that adapter_config.json names. Raises ValueError if it names none, or a revision."""
    base, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{CONFIG} names no base model: say which with base")
    if revision not in (None, "main"):
        raise ValueError(f"{CONFIG} names revision {revision!r} of {base}: download it and name the folder with base")
    return base


def _check_vocabulary(model: MaskedLM, adapter: _Adapter) -> None:
    """Raise ValueError for an adapter that was trained after its base's embeddings were resized."""
    size = model.config.vocab_size
    for new, weight in adapter.weights.items():
        if _module(new) not in ("model.embed_tokens", "lm_head") or weight.dim() != 2:
            continue
        rows = {"lora_A": None, "lora_B": 0, "lora_embedding_A": 1, "lora_embedding_B": None}
        _, adapts, of_lora = new.partition(".lora_")
        axis = rows.get(f"lora_{of_lora.partition('.')[0]}") if adapts else 0
        if axis is not None and weight.shape[axis] != size:
            raise ValueError(
                f"adapter {adapter.folder} has a vocabulary of {weight.shape[axis]} tokens ({adapter.names[new]}), its "
                f"base one of {size}: give the base whose embeddings were resized as the adapter's were"
            )


def _peft_config(model: MaskedLM, adapter: _Adapter) -> LoraConfig:
    """peft's config with full module names, taken from the weights: nothing is left to match by its ending."""
    fields = {"r": 8, "lora_alpha": 8} | {key: adapter.fields[key] for key in _KEPT if adapter.fields.get(key)}
    written = {_module(new): _module(old) for new, old in adapter.names.items() if re.search(r"\.lora_\w*[AB]\b", new)}
    for key, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        pattern = fields.get(key, {})
        values = {new: pattern.get(get_pattern_key(pattern, old), fields[default]) for new, old in written.items()}
        fields[key] = {name: value for name, value in values.items() if value != fields[default]}
    return LoraConfig(
        **fields,
        target_modules=sorted(written),
        modules_to_save=sorted({_module(name) for name in adapter.names if ".lora_" not in name} - set(written))
        or None,
        base_model_name_or_path=model.name_or_path,
    )


def _check_fields(file: Path, fields: Mapping[str, Any]) -> None:
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type must be 'LORA', got {fields.get('peft_type')!r}")
    if fields.get("init_lora_weights") not in _INITIAL_LEAVES_BASE:
        raise ValueError(
            f"{file}: init_lora_weights {fields['init_lora_weights']!r} changed the base weights; have peft convert "
            "the adapter to plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    for key, value in fields.items():
        if key not in {*_KEPT, *_DERIVED, *_INITIAL, *_INERT} and value not in (None, False, {}, [], "none"):
            raise ValueError(f"{file}: {key}={value!r} is not supported")
    for key in ("r", "lora_alpha"):
        value = fields.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{file}: {key} must be a positive number, got {value!r}")
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(fields.get(key) or {}, dict):
            raise ValueError(f"{file}: {key} must be an object, got {fields[key]!r}")


def _module(name: str) -> str:
    """Module of an adapter weight: `base_model.model.lm_head.lora_A.weight` -> `lm_head`."""
    inner, adapts, _ = name.removeprefix(_PREFIX).partition(".lora_")
    return inner if adapts else inner.rpartition(".")[0].removesuffix(".base_layer")
