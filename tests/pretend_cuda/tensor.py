"""A tensor that says it is on cuda:0 and keeps its values in a CPU tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tests.pretend_cuda import counts

CUDA = torch.device("cuda:0")
Module = TypeVar("Module", bound=nn.Module)


class DeviceTensor(Tensor):
    """`host`: the CPU tensor underneath, of the same sizes and strides; views of it are views of the same memory."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> DeviceTensor:
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "layout": host.layout}
        return Tensor._make_wrapper_subclass(cls, host.size(), dtype=host.dtype, device=CUDA, **layout)  # type: ignore

    def __init__(self, host: Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch annotates the function that switches it off
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from tests.pretend_cuda.operators import run

        return run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def tolist(self) -> Any:
        counts.sync("tolist")
        return self.host.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __format__(self, form: str) -> str:
        counts.sync("format")
        return format(self.host, form)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch's is not annotated
        return f"DeviceTensor({self.host!r})"


def leaves(*trees: Any) -> Iterator[Any]:
    """What nested lists, tuples and dicts hold."""
    for tree in trees:
        if isinstance(tree, (list, tuple)):
            yield from leaves(*tree)
        elif isinstance(tree, dict):
            yield from leaves(*tree.values())
        else:
            yield tree


def device_tensors(*trees: Any) -> list[DeviceTensor]:
    """All of them in nested arguments."""
    return [leaf for leaf in leaves(*trees) if isinstance(leaf, DeviceTensor)]


def host_tensors(*trees: Any) -> list[Tensor]:
    """All tensors of nested arguments that are on the CPU."""
    return [leaf for leaf in leaves(*trees) if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor)]


def on_device(tree: Any) -> Any:
    """The same with every CPU tensor on the device, over the same memory; nothing is counted."""
    return _mapped(lambda x: DeviceTensor(x) if isinstance(x, Tensor) and not isinstance(x, DeviceTensor) else x, tree)


def on_host(tree: Any) -> Any:
    """The inverse of `on_device`."""
    return _mapped(lambda x: x.host if isinstance(x, DeviceTensor) else x, tree)


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, (list, tuple)):
        return type(tree)([_mapped(function, item) for item in tree])
    if isinstance(tree, dict):
        return {key: _mapped(function, value) for key, value in tree.items()}
    return function(tree)


def module_on_device(module: Module) -> Module:
    """Move parameters and buffers, in place; tied ones stay tied."""
    moved: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None or isinstance(parameter.data, DeviceTensor):
                continue
            if id(parameter) not in moved:
                moved[id(parameter)] = nn.Parameter(DeviceTensor(parameter.detach()), parameter.requires_grad)
            owner._parameters[name] = moved[id(parameter)]
        for name, buffer in owner._buffers.items():
            owner._buffers[name] = on_device(buffer)
    return module
