"""Keys for runs on the models that the package contains, in place of defaults that are made for LLaDA-8B."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FILES = Path(__file__).parent / "shipped" / "embedded"


def keys_of_model(model: Any) -> dict[str, Any]:
    """The keys that a run on an embedded model takes where its config leaves them out; {} for any other model.

    A local folder of the name of an embedded model is another model, as in `dmpo.load_model`.
    """
    if not isinstance(model, str) or model not in _names() or Path(model).is_dir():
        return {}
    return dict(_keys(model))


@cache
def _names() -> frozenset[str]:
    return frozenset(path.stem for path in _FILES.glob("*.yaml"))


@cache
def _keys(model: str) -> dict[str, Any]:
    keys: dict[str, Any] = yaml.safe_load((_FILES / f"{model}.yaml").read_text(encoding="utf-8"))
    return keys
