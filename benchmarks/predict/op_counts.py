"""What does a piece of PyTorch code do on a GPU, op by op? Counted on tensors that have shapes and no memory.

Fake tensors take the same path as tensors on a GPU, at the sizes of LLaDA-8B. Assumptions, besides those of
`benchmarks/counted/op_traffic.py` on PyTorch's ops (inputs read once, outputs written once, views free):

- one op is one kernel, and kernels take turns;
- attention is one kernel that keeps no score matrix;
- products of float32 run on the ordinary units, as PyTorch has them by default; products of FP8 count half;
- an exponential, logarithm or power costs ELEMENTARY operations, any other element one;
- dropout keeps a mask of one byte an element; Triton kernels move what the functions named `..._work` say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.counted.meter import as_on_a_gpu
from benchmarks.counted.op_traffic import PRODUCTS, UNCOUNTED, bytes_moved, is_view
from benchmarks.harness.data_sheets import Device
from benchmarks.memory.simulated_step import LiveBytes, gpu_dropout
from benchmarks.predict.roofline import Attainable, Work, seconds
from dmpo.kernels import launch
from dmpo.kernels.launch.table import TABLE
from dmpo.kernels.linear_ce import triton_kernels as linear_ce_triton
from dmpo.kernels.masked_ce import triton_kernels as masked_ce_triton
from dmpo.kernels.sampling import triton_kernels as sampling_triton
from dmpo.models import fp8

ELEMENTARY = 40
FP8_RATE = 2  # FLOPs of FP8 in the time of one of bfloat16, on the tensor cores of every device of `data_sheets`
_ELEMENTARY_OPS = {"exp", "log", "pow", "rsqrt", "silu", "_softmax", "_log_softmax", "silu_backward"}

Ops = Counter[Work]  # how often each kernel runs
Passes = list[tuple[Ops, int]]  # the kernels that are launched for one pass, and how many such passes there are


class _OpCounter(TorchDispatchMode):
    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        made = any(isinstance(x, Tensor) for x in tree_leaves(out))  # fake tensors are also asked for their device
        if made and name not in UNCOUNTED and not is_view(func):
            self.ops[_work(func, name, args, kwargs, out)] += 1
        return out


def _work(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> Work:
    read, written = bytes_moved(func, name, args, kwargs, out)
    moved = read + written
    results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    if name.startswith("_scaled_mm"):  # of FP8, which the counter of torch leaves out
        (long, summed), wide = args[0].shape, args[1].shape[1]
        return Work(moved, tensor=2 * long * summed * wide / FP8_RATE, launches=1)
    if func._overloadpacket in flop_registry:
        of_product = args[: PRODUCTS[name] + 2] if name in PRODUCTS else args  # `out_dtype` is unknown to the formulas
        operand = next(x for x in tree_leaves(args[PRODUCTS.get(name, 0) :]) if isinstance(x, Tensor))
        unit = {2: "tensor", 4: "fp32", 8: "fp64"}[operand.itemsize]
        flops = flop_registry[func._overloadpacket](*of_product, out_val=out)
        return Work(moved, launches=1, **{unit: flops})
    elements = max((x.numel() for x in tree_leaves((args, results)) if isinstance(x, Tensor)), default=0)
    elements *= ELEMENTARY if name.rstrip("_") in _ELEMENTARY_OPS else 1
    wide = any(x.dtype == torch.float64 for x in tree_leaves((args, results)) if isinstance(x, Tensor))
    return Work(moved, launches=1, **{"fp64" if wide else "fp32": elements})


# ---------------------------------------------------------------------------------------------- Triton


def tile_softmax_work(rows: int, columns: int, operand_bytes: int, tile: int = 0, size: int = 0) -> Work:
    """One step of `linear_ce_triton.tile_softmax`: float32 logits read, probabilities written unless they take no
    bytes, a few numbers a row. A row that is longer than a block is read again before its probabilities are written.
    Before the tile-th tile (from 0) a sum of `size` numbers is rescaled, read and written, in rows whose maximum lies
    in it: one of tile + 1 if tiles are alike."""
    rescaled = 8 * rows * size // (tile + 1) if tile else 0
    again = 4 if operand_bytes and columns > linear_ce_triton.BLOCK else 0
    moved = rows * columns * (4 + again + operand_bytes) + rows * 24 + rescaled
    return Work(moved, fp32=rows * columns * (ELEMENTARY + 4), launches=1)


def finish_work(rows: int, size: int, head_bytes: int, scaled: bool) -> Work:
    """`linear_ce_triton.finish`: three numbers of a row become two others; with a sum of `size` numbers, that is read
    and written, and the target's row of the head is read."""
    sums = size * (8 + head_bytes) + 8 + 4 * scaled if size else 0
    return Work(rows * (20 + sums), fp32=rows * (3 * size + 2 * ELEMENTARY), launches=1)


def log_prob_work(rows: int, columns: int) -> Work:
    """`masked_ce_triton.forward` of whole float32 rows: logits read, a target and its logit read, three numbers written
    a row."""
    return Work(rows * columns * 4 + rows * 24, fp32=rows * columns * (ELEMENTARY + 4), launches=1)


def tile_gradient_work(rows: int, columns: int, operand_bytes: int) -> Work:
    """`linear_ce_triton.tile_gradient`: float32 logits read, the gradient written, and four numbers a row for each of
    its blocks."""
    blocks = -(-columns // TABLE[90]["ce_backward"][4].block)
    moved = rows * (columns * (4 + operand_bytes) + blocks * 20)
    return Work(moved, fp32=rows * columns * (ELEMENTARY + 4), launches=1)


def sampling_work(rows: int, vocab: int, temperature: float, logit_bytes: int, forbidden: int = 1) -> list[Work]:
    """The two kernels of `sampling_triton.sample`: all logits to figures of tiles; those, and one tile, to a token."""
    kind = {0.0: sampling_triton.ARGMAX, 1.0: sampling_triton.PLAIN}.get(temperature, sampling_triton.TEMPERED)
    block = TABLE[90]["sample_tiles"][logit_bytes].block
    tiles = -(-vocab // block)
    figures = 4 * sampling_triton.STATS[kind] * tiles
    table = max(0, forbidden - sampling_triton.BY_VALUE)  # the others are arguments
    passes = 2 if kind == sampling_triton.TEMPERED else 1
    each = vocab * logit_bytes + figures + 8 * table * tiles
    first = Work(rows * each, fp32=rows * vocab * passes * (ELEMENTARY + 4), launches=1)
    each = figures + block * logit_bytes + 8 * table + 12
    second = Work(rows * each, fp32=rows * (tiles + block) * ELEMENTARY, launches=1)
    return [first, second]


@contextmanager
def _counted_triton(ops: Ops) -> Iterator[None]:
    widest = [1]

    def tile_softmax(tile: Tensor, probs: Tensor | None, gradient: Tensor | None, *rest: Any) -> None:
        (rows, columns), first = tile.shape, rest[-1]
        if first == 0:
            widest[0] = columns
        size = 0 if gradient is None else gradient.shape[1]
        operand = 0 if probs is None else probs.itemsize
        ops[tile_softmax_work(rows, columns, operand, first // widest[0], size)] += 1

    def finish(weight: Tensor, gradient: Tensor | None, targets: Tensor, *rest: Any) -> None:
        size = 0 if gradient is None else gradient.shape[1]
        ops[finish_work(len(targets), size, weight.itemsize, rest[-2] is not None)] += 1

    def log_probs(logits: Tensor, *_: Any) -> tuple[Tensor, ...]:
        rows, length, vocab = logits.shape
        ops[log_prob_work(rows * length, vocab)] += 1
        return tuple(logits.new_empty(rows, length, dtype=torch.float32) for _ in range(3))

    def tile_gradient(tile: Tensor, gradient: Tensor, *_: Any) -> None:
        rows, columns = tile.shape
        ops[tile_gradient_work(rows, columns, gradient.itemsize)] += 1

    def sample(
        logits: Tensor,
        temperature: float,
        seed: int,
        row_ids: Any,
        forbid: list[int],
        mode: str,
        entropy: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows, vocab = logits.shape
        ops.update(sampling_work(rows, vocab, temperature, logits.itemsize, len(forbid)))
        return logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)

    with (
        mock.patch.object(linear_ce_triton, "tile_softmax", tile_softmax),
        mock.patch.object(linear_ce_triton, "finish", finish),
        mock.patch.object(linear_ce_triton, "tile_gradient", tile_gradient),
        mock.patch.object(masked_ce_triton, "forward", log_probs),
        mock.patch.object(sampling_triton, "sample", sample),
    ):
        yield


# ---------------------------------------------------------------------------------------------- PyTorch


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **_: Any
) -> Tensor:
    """The fused kernel of a GPU in place of PyTorch's choice, which looks at the machine."""
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p)[0]


@contextmanager
def fake_gpu(mode: FakeTensorMode) -> Iterator[None]:
    """Tensors made inside are fake, and run the code of a GPU. Only tensors of one mode can be used together."""
    with (
        mock.patch.object(F, "scaled_dot_product_attention", _attention),
        mock.patch.object(F, "dropout", gpu_dropout),
        mock.patch.object(launch, "uses_triton", return_value=True),
        mock.patch.object(fp8, "emulated_product", fp8.tensor_core_product),
        as_on_a_gpu(),
        mode,
    ):
        yield


def count(run: Callable[[], Any]) -> Ops:
    """The kernels of one call of `run`; inside `fake_gpu`."""
    ops: Ops = Counter()
    with _counted_triton(ops), _OpCounter(ops):
        run()
    return ops


def peak(run: Callable[[], Any], inputs: list[Tensor]) -> int:
    """The most bytes alive at once during `run`, above the bytes of its inputs; inside `fake_gpu`."""
    with _counted_triton(Counter()), LiveBytes(inputs) as live:
        run()
    return live.peak


def device_time(ops: Ops, device: Device, reach: Attainable) -> float:
    """Seconds of all kernels, one after another, none of which waits for its launch."""
    return sum(times * seconds(work, device, reach) for work, times in ops.items())


def host_time(ops: Ops, reach: Attainable) -> float:
    """Seconds of the host, which launches the kernels one after another."""
    return reach.host * sum(times * work.launches for work, times in ops.items())


def time_of(passes: Passes, device: Device, reach: Attainable) -> float:
    """Seconds of passes, each as long as the slower of device and host takes for it.

    A stream holds about a thousand launches that wait, less than a pass of LLaDA-8B: so a host that is slower in one
    kind of pass does not catch up in another.
    """
    return sum(times * max(device_time(ops, device, reach), host_time(ops, reach)) for ops, times in passes)


def together(passes: Passes) -> Ops:
    """The kernels of all passes."""
    ops: Ops = Counter()
    for each, times in passes:
        ops.update(scaled(each, times))
    return ops


def total(ops: Ops) -> dict[str, float]:
    """Bytes, FLOPs by unit and launches of all kernels together."""
    return {name: sum(times * getattr(work, name) for work, times in ops.items()) for name in Work.__dataclass_fields__}


def scaled(ops: Ops, times: int) -> Ops:
    return Counter({work: count * times for work, count in ops.items()})


def without_launches(ops: Ops) -> Ops:
    """The kernels of a part of a CUDA graph: the host does not launch them."""
    kernels: Ops = Counter()
    for work, times in ops.items():
        kernels[replace(work, launches=0)] += times
    return kernels


def one_graph(ops: Ops) -> Ops:
    """The kernels as one CUDA graph, which the host launches at once."""
    return without_launches(ops) + Counter({Work(launches=1): 1})


def extended(fewer: Ops, more: Ops, layers: int) -> Ops:
    """Ops of a model from the ops of models with 2 and 3 blocks: every further block does the same.

    Raises ValueError where a third block takes something away, as it would if blocks differed.
    """
    found: Ops = Counter()
    for work in fewer.keys() | more.keys():
        each = more[work] - fewer[work]
        if each < 0:
            raise ValueError(f"blocks differ: {work} runs {fewer[work]} times in 2 and {more[work]} times in 3 of them")
        found[work] = fewer[work] + (layers - 2) * each
    return found
