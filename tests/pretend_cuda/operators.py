"""What an operator does on the pretend device: it refuses tensors of the host, is counted, and runs on the CPU.

The operators of dmpo run their own Python on device tensors, so that each of their branches for a GPU is taken. An
operator of torch counts as one launch, whatever number of kernels CUDA has for it; views and allocations launch
nothing. The host waits where it needs a value or a size, and for copies, save from pinned memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_cuda import counts
from tests.pretend_cuda.tensor import DeviceTensor, leaves, on_device, on_host

ALLOCATING = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize_", "set_"}
READS_A_VALUE = {"_local_scalar_dense", "equal", "is_nonzero"}
NO_LAUNCH = ALLOCATING | READS_A_VALUE | {"_unsafe_view", "_reshape_alias", "detach_", "lift_fresh", "is_pinned"}
READS_A_SIZE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
COPIES = {"_to_copy", "copy_"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
PINNED = "pinned_for_the_pretend_device"  # attribute of a host tensor


class DeviceMismatchError(RuntimeError):
    """A tensor of the host stands beside one of the device, where a GPU would refuse it."""


class DeviceMode(TorchDispatchMode):
    """Catches what has no device tensor among its arguments and asks for the device: factories and copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_cuda(kwargs.get("device")) and not any(isinstance(x, DeviceTensor) for x in leaves(args, kwargs)):
            return func(*args, **kwargs)
        with self:  # an operator of dmpo makes tensors of its own
            return run(func, args, kwargs)


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`func` on the device; its results are device tensors, or whatever it copies to the host.

    Raises:
        DeviceMismatchError: a GPU would not take these tensors together.
    """
    name, is_composite, views, returns = _facts(func)
    if func.namespace == "dmpo" and func._schema.name in OPDEFS:
        return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
    if is_composite and (out := func.decompose(*args, **kwargs)) is not NotImplemented:
        return out  # made of other operators, which come back here
    tensors = [x for x in leaves(args, kwargs) if isinstance(x, Tensor)]
    has_device = any(isinstance(x, DeviceTensor) for x in tensors)
    if has_device and name not in COPIES:
        _refuse_host_tensors(func, name, tensors, args)
    _count_syncs(name, args, kwargs)
    to_device = _is_cuda(kwargs.get("device"))
    to_host = kwargs.get("device") is not None and not to_device
    out = _on_cpu(func, *on_host((args, kwargs)))
    if not views and name not in NO_LAUNCH and any(isinstance(x, Tensor) and x.numel() for x in leaves(out)):
        counts.launch(name)
    if returns:
        written = [args[at] if at < len(args) else kwargs[argument] for at, argument in returns]
        return written[0] if len(written) == 1 else tuple(written)
    return on_device(out) if (to_device or has_device) and not to_host else out


@cache
def _facts(func: Any) -> tuple[str, bool, bool, list[tuple[int, str]]]:
    """Name; whether it is made of other operators; whether its results are views; the arguments that it returns because
    it wrote them, in the order of its results: their places and names."""
    schema, returns = func._schema, []
    aliases = [result.alias_info for result in schema.returns]
    for alias in aliases:
        for at, argument in enumerate(schema.arguments):
            of = argument.alias_info
            if alias and alias.is_write and of and of.before_set & alias.before_set:
                returns.append((at, argument.name))
    views = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return schema.name.split("::")[1], is_composite, views, returns


def _refuse_host_tensors(func: Any, name: str, tensors: list[Tensor], args: tuple[Any, ...]) -> None:
    """As a GPU: numbers may come from the host, and indices."""
    indices = [id(index) for index in leaves(args[1])] if name in INDEXES else []
    strangers = [x for x in tensors if not isinstance(x, DeviceTensor) and x.dim() and id(x) not in indices]
    if strangers:
        shapes = ", ".join(f"{x.dtype} {list(x.shape)}" for x in strangers)
        raise DeviceMismatchError(f"{func} got tensors of the host beside cuda:0: {shapes}; at {counts.place()}")


def _count_syncs(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name in READS_A_VALUE or name in READS_A_SIZE:
        counts.sync(name)
    elif name in INDEXES:
        for index in leaves(args[1]):
            if index is None:
                continue
            fills = name != "index" and isinstance(args[2], Tensor) and _is_number(args[2])
            if index.dtype in (torch.bool, torch.uint8) and not fills:  # a fill by a number is a masked_fill
                counts.sync("nonzero of an index")
                counts.launch("nonzero of an index")
            if not isinstance(index, DeviceTensor):
                counts.sync("copy from host of an index")
                counts.launch("copy from host of an index")
            elif index.dtype not in (torch.bool, torch.uint8) and fills:
                counts.sync("copy from host of a value")
                counts.launch("copy from host of a value")
    elif name in COPIES:
        target = args[0] if name == "copy_" else kwargs.get("device", args[0].device)
        source = args[1] if name == "copy_" else args[0]
        to = target.device if isinstance(target, Tensor) else torch.device(target)
        without_waiting = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
        if isinstance(source, DeviceTensor) and to.type == "cpu":
            counts.sync("copy to host")
        from_host = not isinstance(source, DeviceTensor) and to.type == "cuda"
        if from_host and not (without_waiting and getattr(source, PINNED, False)):
            counts.sync("copy from host")


def _on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator of the same name on CPU tensors, where there is one."""
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if _is_cuda(kwargs.get("device")):
        kwargs["device"] = torch.device("cpu")
    if func._overloadname in ("dtype", "dtype_out"):  # products of half precision into float32
        to = kwargs.pop("out_dtype", None) or next(x for x in args if isinstance(x, torch.dtype))
        widened = [x.to(to) if isinstance(x, Tensor) else x for x in args if not isinstance(x, torch.dtype)]
        return func.overloadpacket(*widened, **kwargs)
    return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_number(x: Tensor) -> bool:
    return not isinstance(x, DeviceTensor) and x.numel() == 1
