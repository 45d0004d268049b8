"""What lies in a checkpoint folder: found, read and checked before any weight is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

Shapes = Mapping[str, tuple[int, ...]]

# Weights, configs and tokenizer at the top of a Hub repository: no code, no pickles.
_ASSETS = Path(__file__).parent / "assets"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name for p in _ASSETS.iterdir() if (p / "config.json").is_file())


def local_checkpoint(path: str | Path) -> Path | None:
    """A local folder, or an embedded model by its name; None for a Hub id ('owner/name'), which is not looked up.

    Raises ValueError for anything else.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path in embedded_models():
        return _ASSETS / path
    if folder.exists():
        raise ValueError(f"path {str(path)!r} is a file; wanted is a checkpoint folder")
    if not isinstance(path, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path):
        known = ", ".join(embedded_models())
        raise ValueError(f"path {str(path)!r} does not exist, is not a Hub id ('owner/name'), nor embedded ({known})")
    return None


def checkpoint_folder(path: str | Path) -> Path:
    """A local folder; an embedded model by its name; a Hub id ('owner/name') as the folder it was downloaded to.

    Raises ValueError for anything else.
    """
    folder = local_checkpoint(path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # takes a second to import

    try:
        return Path(snapshot_download(str(path), allow_patterns=_HUB_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # offline, gated, unknown: whatever the reason, the message carries it
        raise ValueError(f"path {path!r} is no folder here, and the Hub did not give it: {error}") from error


def recipe_overrides(name: str) -> list[str]:
    """The recipe of an embedded model, all but its folder, as `key=value`.

    Raises:
        ValueError: no embedded model of that name.
    """
    if name not in embedded_models():
        raise ValueError(f"no embedded model {name!r}, choose one of {', '.join(embedded_models())}")
    recipe = read_json(checkpoint_folder(name) / "recipe.json")
    return [f"{key}={json.dumps(value)}" for key, value in recipe.items() if key != "output_dir"]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError naming the file when it is absent or something else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(fields).__name__}")
    return fields


def read_weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a safetensors checkpoint, sharded or not, from the file headers alone.

    Raises ValueError naming the file that is missing, truncated, not safetensors, or lacks a weight of the index.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _header_shapes(single)
    if not index.is_file():
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise ValueError(f"{folder} holds pickled weights ({pickles[0]}); only safetensors files are loaded")
        raise ValueError(f"{folder} holds neither {single.name} nor {index.name}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index} lacks its weight_map (weight name -> file name)")
    shards = {shard: _header_shapes(folder / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ValueError(f"{folder / shard} lacks {name}, which {index.name} places there")
    return {name: shape for shapes in shards.values() for name, shape in shapes.items()}


def check_weight_shapes(
    owner: str, found: Shapes, expected: Shapes, optional: Collection[str] = (), config: str = "config.json"
) -> None:
    """Raise ValueError, `owner` first, if a weight would stay random, be dropped, or does not fit its config file.

    `optional` names may be absent.
    """
    missing = sorted(expected.keys() - found.keys() - set(optional))
    # Rotary frequencies are computed, not learned; some older checkpoints store them all the same.
    left_over = sorted(name for name in found.keys() - expected.keys() if not name.endswith("rotary_emb.inv_freq"))
    for what, names in (("lacks", missing), (f"holds weights that its {config} has no place for:", left_over)):
        if names:
            raise ValueError(f"{owner} {what} {first_names(names)}")
    for name in sorted(expected.keys() & found.keys()):
        if found[name] != expected[name]:
            raise ValueError(f"{owner}: {name} has shape {found[name]}, its {config} says {expected[name]}")


def first_names(names: Sequence[str]) -> str:
    """The first three, and how many more, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    try:
        with safe_open(file, framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or not a safetensors file: {error}") from error
