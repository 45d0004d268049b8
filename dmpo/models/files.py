"""Find, read and check the files of a checkpoint folder before any weight is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

Shapes = Mapping[str, tuple[int, ...]]

_EMBEDDED = Path(__file__).parent / "embedded"
# Weights, configs and tokenizer at the top of a Hub repository; no code and no pickles.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def embedded_models() -> list[str]:
    """The names of the models that the package contains."""
    return sorted(p.name for p in _EMBEDDED.iterdir() if (p / "config.json").is_file())


def local_checkpoint(path: str | Path) -> Path | None:
    """The folder of a local path or of an embedded model's name; None for a Hub id ('owner/name').

    The Hub is not asked. Raises ValueError for any other path.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path in embedded_models():
        return _EMBEDDED / path
    if folder.exists():
        raise ValueError(f"path must be a checkpoint folder, got the file {str(path)!r}")
    if not isinstance(path, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path):
        names = ", ".join(embedded_models())
        raise ValueError(
            f"path {str(path)!r} does not exist, and is neither a Hub id ('owner/name') nor an embedded model ({names})"
        )
    return None


def checkpoint_folder(path: str | Path, *, code: bool = False) -> Path:
    """The folder of a local path, of an embedded model's name, or of a Hub id ('owner/name'), which is downloaded.

    code: download its Python files, too, to copy them. They are never run.

    Raises ValueError for any other path.
    """
    folder = local_checkpoint(path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # takes a second to import

    patterns = [*_HUB_FILES, "*.py"] if code else _HUB_FILES
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # offline, gated or unknown: the message of the Hub's library names the reason
        raise ValueError(f"path {path!r} is no local folder, and the Hub did not provide it: {error}") from error


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
    """The JSON object in a file. Raises ValueError naming the file if it is absent or has something else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must contain a JSON object, got {type(fields).__name__}")
    return fields


def read_weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a safetensors checkpoint, sharded or not. Only file headers are read.

    Raises ValueError naming the file that is missing, truncated, not safetensors, or lacks a weight of the index.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _header_shapes(single)
    if not index.is_file():
        if pickles := sorted(path.name for path in folder.glob("*.bin")):
            raise ValueError(
                f"{folder} has pickled weights ({pickles[0]}), but only safetensors files are loaded; convert them"
            )
        raise ValueError(f"{folder} has neither {single.name} nor {index.name}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index} lacks its weight_map (weight name -> file name)")
    shards = {shard: _header_shapes(folder / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ValueError(f"{folder / shard} lacks {name}, although {index.name} says that it is there")
    return {name: shape for shapes in shards.values() for name, shape in shapes.items()}


def check_weight_shapes(
    owner: str, stored: Shapes, expected: Shapes, optional: Collection[str] = (), config: str = "config.json"
) -> None:
    """Raise ValueError if a weight is missing, has no module in the model, or does not have the shape of the config.

    The message starts with `owner`. Names in `optional` may be absent.
    """
    missing = sorted(expected.keys() - stored.keys() - set(optional))
    # Rotary frequencies are computed and not learned, but some older checkpoints store them.
    surplus = sorted(name for name in stored.keys() - expected.keys() if not name.endswith("rotary_emb.inv_freq"))
    for problem, names in (("lacks", missing), (f"has weights that do not belong to its {config}:", surplus)):
        if names:
            raise ValueError(f"{owner} {problem} {first_names(names)}")
    for name in sorted(expected.keys() & stored.keys()):
        if stored[name] != expected[name]:
            raise ValueError(f"{owner}: {name} has shape {stored[name]}, but its {config} says {expected[name]}")


def first_names(names: Sequence[str]) -> str:
    """The first three names and the number of the others, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _header_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    try:
        with safe_open(file, framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is truncated or not a safetensors file: {error}") from error
