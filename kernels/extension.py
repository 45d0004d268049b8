"""The compiled operators of csrc/: whether they can be used, and how a call reaches them."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("dmpo")

_BUILD_HINT = "build it with `python setup.py build_ext --inplace`"
_OPERATORS = ("remask_", "revoke_")


def _load() -> tuple[ModuleType | None, str]:
    """dmpo._C and what it was built with, or None and why it cannot be used."""
    try:
        module = importlib.import_module("dmpo._C")
    except ImportError as error:
        return None, f"dmpo._C is not usable ({error}); {_BUILD_HINT}"
    built, running = module.build_info()["torch"], torch.__version__
    if built.split(".")[:2] != running.split(".")[:2]:
        return None, f"dmpo._C was built against torch {built}, but torch {running} is running; {_BUILD_HINT}"
    if missing := [name for name in _OPERATORS if not hasattr(torch.ops.dmpo, name)]:
        return None, f"dmpo._C is older than its sources (it has no {' and no '.join(missing)}); {_BUILD_HINT}"
    cuda = "with" if module.build_info()["cuda"] else "without"
    return module, f"built against torch {built}, {cuda} CUDA sources ({module.build_info()['reason']})"


_module, _status = _load()


def extension_status() -> tuple[bool, str]:
    """Whether the compiled extension is in use, and how it was built or why it is not."""
    return _module is not None, _status


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def usable(op: str) -> bool:
    """Whether `op` is compiled; where it is not, the log says once that its slow reference runs."""
    if _module is None:
        _warn_once(f"{op} runs its slow Python reference: {_status}")
    return _module is not None


def run_in_place(op: str, tokens: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """torch.ops.dmpo's `op`, which writes `tokens`; through a copy on the CPU where their device has no kernel."""
    assert _module is not None
    operator = getattr(torch.ops.dmpo, op)
    device = tokens.device
    if device.type == "cpu" or (device.type == "cuda" and _module.build_info()["cuda"]):
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
