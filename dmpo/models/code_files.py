"""The Python files of a checkpoint, which merged weights keep beside them. dmpo copies this code and never runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import first_names, read_json

_CONFIG = "config.json"
_OWN_FIELDS = ("tie_word_embeddings", "weight_tying", "mask_token_id", "eos_token_id")  # of the merged model


def keep_code(base: Path, merged: Path, *, same_layout: bool) -> str:
    """Keep the base's `auto_map` in the config of a merged checkpoint, and copy the Python files that it names.

    With them `AutoModel.from_pretrained(merged, trust_remote_code=True)` of transformers loads the checkpoint. That
    code reads the base's own config, so the merged checkpoint gets this config, too, with the token ids of the merged
    model. An entry whose file the base does not have is left out; an entry of another repository
    (`owner/name--module.Class`) stays as it is.

    Args:
        base, merged: folders of checkpoints; the tokenizer files of `merged` are there already.
        same_layout: whether the weights of both have the same names; else the code cannot read the merged weights.

    Returns what was kept or left out, in words; nothing if the base has no `auto_map`.
    """
    fields = read_json(base / _CONFIG)
    auto_map = fields.get("auto_map")
    entries = auto_map if isinstance(auto_map, dict) else {}
    files = {path.name: path for path in sorted(base.glob("*.py"))}
    missing = {file for entry in entries.values() for file in _files(entry) if file not in files}
    kept = {name: entry for name, entry in entries.items() if same_layout and not missing & {*_files(entry)}}
    if kept:
        written = read_json(merged / _CONFIG)
        own = {name: written[name] for name in _OWN_FIELDS if written.get(name) is not None}
        fields |= {"auto_map": kept, **own}
        (merged / _CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    if not any(file in files for entry in [*kept.values(), *_tokenizer_entries(merged)] for file in _files(entry)):
        files = {}
    for name, path in files.items():  # all of them, because they import each other
        shutil.copyfile(path, merged / name)
    if not entries:
        return ""
    if not same_layout:
        return "without the base's auto_map, whose Python files read the base's layout"
    if missing:
        part = f"{len(entries) - len(kept)} of {len(entries)} entries of " if kept else ""
        return f"without {part}the base's auto_map, because the base lacks {first_names(sorted(missing))}"
    return f"with the base's auto_map{' and ' if files else ''}{first_names([*files])}"


def _files(entry: Any) -> Iterator[str]:
    """The files beside the config of which an entry of an `auto_map` names a class."""
    for reference in entry if isinstance(entry, list) else [entry]:
        if isinstance(reference, str) and "--" not in reference:
            yield f"{reference.partition('.')[0]}.py"


def _tokenizer_entries(folder: Path) -> list[Any]:
    settings = folder / "tokenizer_config.json"
    auto_map = read_json(settings).get("auto_map") if settings.is_file() else None
    return list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
