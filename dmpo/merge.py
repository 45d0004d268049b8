"""Adapters merged into their base, and runs turned into plain checkpoints that any tool of their family reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from .adapters import CONFIG, adapter_base, attach_adapter, read_adapter
from .checkpoint_files import checkpoint_folder, read_json
from .masked_lm import MaskedLM
from .models import load_model, save_model
from .run.selection import newest_checkpoint
from .run.whole_files import ASIDE, damage

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
    """Write what a run trained as a plain checkpoint; returns a line that says what was merged into what.

    The base is loaded in its own dtype; a run on a 4-bit base merges into the unquantised one. Tokenizer files are
    copied as they are: the base's, or where it has none, those beside the adapter.

    Args:
        source: a run's folder (its newest whole checkpoint), a checkpoint's (`step-N`), an adapter's (or its Hub id),
            or a plain checkpoint's, which is only written anew.
        output: folder to write, absent or empty. It is there whole or not at all.
        base: folder or Hub id of the base model; None is what adapter_config.json names.
        layout: as in `save_model`; None is the base's.
        max_shard_size: as in `save_model`.

    Raises:
        ValueError: output is not empty; nothing to merge in source; no base; an adapter, a base or a layout that do not
            go together; a pickled adapter.
    """
    final = Path(output).expanduser()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"output {final} exists and is not an empty folder; nothing is overwritten")
    trained = trained_folder(source)
    if is_adapter := (trained / CONFIG).is_file():
        adapter = read_adapter(trained)
        base_folder = checkpoint_folder(adapter_base(adapter.fields) if base is None else base)
        model = merge_adapter(attach_adapter(load_model(base_folder), adapter))
    elif base is not None:
        raise ValueError(f"{trained} holds a whole model, no adapter: base has no use")
    else:
        base_folder = trained
        model = load_model(trained)
    if layout is None:
        layout = "llada" if read_json(base_folder / "config.json")["model_type"] == "llada" else "transformers"
    partial = final.with_name(f"{ASIDE}{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(model, partial, layout, max_shard_size=max_shard_size)
        tokenizer = next((found for f in (base_folder, trained) if (found := _tokenizer_files(f))), [])
        for file in tokenizer:
            shutil.copyfile(file, partial / file.name)
        if final.is_dir():
            final.rmdir()
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    what = f"{trained} merged into {base_folder}" if is_adapter else f"{trained}"
    return f"{final}: {what}, {layout} layout, {model.dtype}, {'with' if tokenizer else 'without a'} tokenizer"


def merge_adapter(adapted: PeftModel) -> MaskedLM:
    """The base model with its adapter added, in place: W + scale·BA (DoRA: as peft defines it) in float32, rounded once
    to W's dtype. In W's own dtype, as peft adds by itself, bfloat16 would round twice.

    Raises ValueError where the merged weights are not finite.
    """
    with torch.no_grad():
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                weights = layer.get_base_layer()
                dtype: torch.dtype = next(weights.parameters()).dtype
                weights.to(torch.promote_types(dtype, torch.float32))
                layer.merge(safe_merge=True)
                weights.to(dtype)
    model: MaskedLM = adapted.unload()
    return model.requires_grad_(True)


def trained_folder(path: str | Path) -> Path:
    """Folder of the adapter or the model in a run's, a checkpoint's, an adapter's or a model's own (or its Hub id).

    Raises ValueError if none of these is there, the run has no whole checkpoint, or the checkpoint named is not whole.
    """
    folder = checkpoint_folder(path)
    if (folder / "checkpoints").is_dir():
        newest = newest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise ValueError(f"{folder / 'checkpoints'} holds no whole checkpoint")
        folder = newest
    if (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return folder
    for part in (folder / "adapter", folder / "model"):
        if part.is_dir():
            if problem := damage(folder):
                raise ValueError(f"checkpoint {folder} is damaged: {problem}")
            return part
    raise ValueError(f"{folder} is no run, checkpoint, adapter or model: there is no {CONFIG} or config.json")


def _tokenizer_files(folder: Path) -> list[Path]:
    return [file for name in _TOKENIZER_FILES if (file := folder / name).is_file()]
