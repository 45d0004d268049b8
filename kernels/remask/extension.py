"""The compiled operators of csrc/: whether they are usable, and how they are called."""

from __future__ import annotations

import importlib
import json
import logging
import re
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

logger = logging.getLogger("dmpo")

_OPERATORS = ("remask_", "revoke_")


def _build_command() -> str:
    """The command that builds dmpo._C for this Python and this torch."""
    tree, python = Path(__file__).resolve().parents[2], shlex.quote(sys.executable)
    if (tree / "setup.py").is_file():
        return f"cd {shlex.quote(str(tree))} && {python} setup.py build_ext --inplace"
    return f"{python} -m pip install --no-build-isolation --no-deps --force-reinstall {_source()}"


def _source() -> str:
    """The source that the package was installed from: a folder, an archive, or a requirement that pip builds."""
    try:
        origin = json.loads(metadata.distribution("dmpo").read_text("direct_url.json") or "{}").get("url", "")
    except (metadata.PackageNotFoundError, ValueError):
        origin = ""
    if not origin:
        return "--no-binary=dmpo dmpo"
    url = urlsplit(origin)
    return shlex.quote(unquote(url.path) if url.scheme == "file" else origin)


def _version(text: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _load() -> tuple[ModuleType | None, str]:
    """dmpo._C and how it was built, or None and why it is not usable."""
    hint = f"build it with `{_build_command()}`"
    try:
        module = importlib.import_module("dmpo._C")
    except ImportError as error:
        return None, f"dmpo._C is not usable with torch {torch.__version__} ({error}); {hint}"
    built = module.build_info()
    if missing := [name for name in _OPERATORS if not hasattr(torch.ops.dmpo, name)]:
        return None, f"dmpo._C is older than its sources (it has no {' and no '.join(missing)}); {hint}"
    if (remask := getattr(torch.ops.dmpo, "remask_", None)) and "risk" not in str(remask.default._schema):
        return None, f"dmpo._C is older than its sources (its remask_ has no risk); {hint}"
    if "oldest_torch" not in built:
        return None, f"dmpo._C is older than its sources (it was built for torch {built['torch']} alone); {hint}"
    if _version(torch.__version__) < _version(built["oldest_torch"]):
        needed = f"dmpo._C needs torch {built['oldest_torch']} or newer, but torch {torch.__version__} is running"
        return None, f"{needed}; install it with `{shlex.quote(sys.executable)} -m pip install --upgrade torch`"
    cuda = "with" if built["cuda"] else "without"
    return module, f"built with torch {built['torch']}, {cuda} CUDA sources ({built['reason']})"


_module, _status = _load()
# Read once, here: torch.compile cannot trace a call of the extension's own functions.
_has_cuda = _module is not None and bool(_module.build_info()["cuda"])


def extension_status() -> tuple[bool, str]:
    """Whether the compiled extension is in use, and how it was built or why it is not in use."""
    return _module is not None, _status


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def usable(op: str) -> bool:
    """Whether `op` is compiled; if it is not, warns once that the slow reference runs."""
    if _module is None:
        _warn_once(f"{op} runs its slow Python reference: {_status}")
    return _module is not None


def run_in_place(op: str, tokens: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Call torch.ops.dmpo's `op`, which writes `tokens`; on a copy on the CPU if their device has no kernel."""
    assert _module is not None
    operator = getattr(torch.ops.dmpo, op)
    device = tokens.device
    if device.type == "cpu" or (device.type == "cuda" and _has_cuda):
        return operator(tokens, *arguments, **options)
    _warn_once(f"{op} copies {device.type} tensors to the CPU and back: dmpo._C is {_status}")
    host = tokens.cpu()
    options = {name: _on_host(value) for name, value in options.items()}
    result = operator(host, *(_on_host(value) for value in arguments), **options)
    tokens.copy_(host)
    return result.to(device)


def _on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


if _module is not None:

    @torch.library.register_fake("dmpo::remask_")
    def _(
        tokens: Tensor,
        candidates: Tensor,
        confidence: Tensor,
        mask_id: int,
        *,
        count: int | None = None,
        counts: Tensor | None = None,
        threshold: float | None = None,
        factor: float | None = None,
        risk: float | None = None,
    ) -> Tensor:
        return tokens.new_empty((tokens.shape[0],), dtype=torch.int32)

    @torch.library.register_fake("dmpo::revoke_")
    def _(
        tokens: Tensor,
        confidence: Tensor,
        mask_id: int,
        threshold: float,
        *,
        limit: int | None = None,
        limits: Tensor | None = None,
    ) -> Tensor:
        return tokens.new_empty((tokens.shape[0],), dtype=torch.int32)
