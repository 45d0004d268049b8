"""Merge an adapter into its base, and write the model of a run as a plain checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from ..storage.checkpoints import CHECKPOINTS, newest_checkpoint, run_config
from ..storage.whole_files import ASIDE, damage
from .adapters import CONFIG, adapter_base, attach_adapter, read_adapter
from .code_files import keep_code
from .files import checkpoint_folder, first_names, read_json
from .loading import load_model
from .masked_lm import MaskedLM
from .merged_adapters import merge_obstacle, merged_bias, merged_weight
from .saving import save_model

Layout = Literal["transformers", "llada"]

_TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
]


def merge(
    source: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    layout: Layout | None = None,
    max_shard_size: int | str = "5GB",
) -> str:
    """Write the trained model of a run as a plain checkpoint. Returns a line that names the merged folders.

    The base is loaded in its own dtype. An adapter that was trained on a 4-bit base is merged into the unquantised
    base. The tokenizer files of the base, its chat template among them, are copied unchanged; if it has none, the files
    beside the adapter are copied. generation_config.json is copied, too. Where the layout stays, so are the Python
    files of the base and the `auto_map` of its config (`code_files.keep_code`).

    Args:
        source: the folder of a run (its newest whole checkpoint counts), of a checkpoint (`step-N`), of an adapter (or
            its Hub id), or of a plain checkpoint, which is only rewritten.
        output: the folder to write, absent or empty. A failed call leaves no incomplete folder.
        base: folder or Hub id of the base model; None for the base that adapter_config.json names.
        layout: as in `save_model`; None for the layout of the base.
        max_shard_size: as in `save_model`.

    Raises:
        ValueError: `output` is not empty; `source` has nothing to merge; the base is unknown; adapter, base and layout
            do not fit together; or the adapter is pickled.
    """
    final = Path(output).expanduser()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"output must be absent or an empty folder, got {final}; give another path")
    trained = trained_folder(source, code=True)
    if is_adapter := (trained / CONFIG).is_file():
        adapter = read_adapter(trained)
        base_folder = checkpoint_folder(adapter_base(adapter.fields) if base is None else base, code=True)
        model = merge_adapter(attach_adapter(load_model(base_folder, **_token_ids(trained)), adapter))
    elif base is not None:
        raise ValueError(f"{trained} has a whole model and no adapter, so base has no use; leave base out")
    else:
        base_folder = trained
        model = load_model(trained)
    own_layout: Layout = "llada" if read_json(base_folder / "config.json")["model_type"] == "llada" else "transformers"
    layout = layout or own_layout
    partial = final.with_name(f"{ASIDE}{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(model, partial, layout, max_shard_size=max_shard_size)
        tokenizer = _named_files(base_folder, _TOKENIZER_FILES) or _named_files(trained, _TOKENIZER_FILES)
        for file in [*tokenizer, *_named_files(base_folder, ["generation_config.json"])]:
            shutil.copyfile(file, partial / file.name)
        code = keep_code(base_folder, partial, same_layout=layout == own_layout)
        if final.is_dir():
            final.rmdir()
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    what = f"{trained} merged into {base_folder}" if is_adapter else f"{trained}"
    kept = [f"{'with' if tokenizer else 'without a'} tokenizer", *([code] if code else [])]
    return f"{final}: {what}, {layout} layout, {model.dtype}, {', '.join(kept)}"


def merge_adapter(adapted: PeftModel) -> MaskedLM:
    """Add the adapter to the base weights, in place: W + scale·BA, by `merged_weight`. Others, as DoRA, peft merges.

    The sum is computed in float32 and rounded once to the dtype of W. peft alone would compute in the dtype of W, and
    bfloat16 would round twice.

    Raises ValueError if the merged weights are not finite, or if the adapter adds a bias to layers without one.
    """
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, BaseTunerLayer)}
    if without := [name for name, layer in layers.items() if _adds_bias(layer)]:
        names = first_names([name.removeprefix("base_model.model.") for name in without])
        raise ValueError(
            f"adapter has lora_bias, and its base has no bias in {names}, so a plain checkpoint cannot store the bias; "
            "use the adapter without merging it (dmpo eval loads it)"
        )
    with torch.no_grad():
        for name, layer in layers.items():
            weights: Any = layer.get_base_layer()
            if merge_obstacle(layer) is None:
                weights.weight.data = merged_weight(layer)
                if weights.bias is not None:
                    weights.bias.data = merged_bias(layer)
                if not all(bool(torch.isfinite(parameter).all()) for parameter in weights.parameters()):
                    raise ValueError(f"the merged weights of {name} are not finite; the adapter or its base is broken")
                continue
            dtype: torch.dtype = next(weights.parameters()).dtype
            weights.to(torch.promote_types(dtype, torch.float32))
            layer.merge(safe_merge=True)
            weights.to(dtype)
    model: MaskedLM = adapted.unload()
    return model.requires_grad_(True)


def _adds_bias(layer: BaseTunerLayer) -> bool:
    added = any(getattr(layer, "lora_bias", {}).values())
    return added and getattr(layer.get_base_layer(), "bias", None) is None


def _token_ids(trained: Path) -> dict[str, Any]:
    """`mask_id` and `eos_id` of the run that trained an adapter: its base may not name them."""
    path = run_config(trained)
    try:
        keys = {} if path is None else dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; the run's mask_id and eos_id may stand in it") from error
    return {name: keys.get(name) for name in ("mask_id", "eos_id")}


def trained_folder(path: str | Path, *, code: bool = False) -> Path:
    """The folder of the adapter or of the model. `path` is a run, a checkpoint, an adapter or a model, or a Hub id.

    code: as in `checkpoint_folder`.

    Raises ValueError if `path` is none of these, the run has no whole checkpoint, or the checkpoint is damaged.
    """
    folder = checkpoint_folder(path, code=code)
    if (folder / CHECKPOINTS).is_dir():
        newest = newest_checkpoint(folder / CHECKPOINTS)
        if newest is None:
            raise ValueError(f"{folder / CHECKPOINTS} has no whole checkpoint; give another run")
        folder = newest
    if (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return folder
    for weights_folder in (folder / "adapter", folder / "model"):
        if weights_folder.is_dir():
            if problem := damage(folder):
                raise ValueError(f"checkpoint {folder} is damaged: {problem}; give another checkpoint")
            return weights_folder
    raise ValueError(f"{folder} is no run, checkpoint, adapter or model: it has no {CONFIG} and no config.json")


def _named_files(folder: Path, names: Sequence[str]) -> list[Path]:
    return [file for name in names if (file := folder / name).is_file()]
