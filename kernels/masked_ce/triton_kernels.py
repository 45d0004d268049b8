"""Triton kernels of masked cross-entropy from logits, and their launchers.

One program handles one row. The program of a dead row (not masked, or with a coefficient of 0) exits before it reads
a logit. The forward has a running maximum and sum for each group of 16 bytes that a thread loads, so its loop has no
barrier. It stores the row's maximum and the logarithm of its sum separately: (x - max) - log(sum) keeps the digits
that x - lse loses at |x| = 1e4.

Loads are 16 bytes wide if the logits start on 16 bytes and their rows and strides, in bytes, divide by 16 (V a
multiple of 8 in bfloat16, as for LLaDA and Dream). Otherwise every element is a load of its own; the results are the
same.

Traffic of a live row, in units of the row: forward 1 read; backward 1 read and 1 write. A dead row costs one write of
zeros, in the backward. (A gradient computed in the forward would need the row, 253 KB at V = 126464 in bf16, in the
registers of one program. The row does not fit there, and without it the forward reads the row twice, too.)
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from .. import launch
from ..arithmetic import coefficients
from ..launch import LaunchConfig, ProductionKernel, jit, paths, production_kernel, tl

MEAN_BLOCK = 1024


@jit
def _coefficient(weights, baseline, strength, n):  # type: ignore[no-untyped-def]
    """a = w - strength * b of row n in float32; with float64 weights there is no baseline, see `_weights`."""
    a = tl.load(weights + n)
    if weights.dtype.element_ty != tl.float64:
        a = a.to(tl.float32)
    if baseline is not None:
        a = a - strength * tl.load(baseline + n).to(tl.float32)
    return a


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    logits, targets, mask, weights, baseline, strength, log_probs, row_max, log_sum,
    length, vectors, stride_n, stride_l,
    VEC: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """log p(target), max x and log Σ exp(x - max) of one row; zeros if the row is dead."""
    row = tl.program_id(0)
    n = row // length
    live = True
    if mask is not None:
        live = tl.load(mask + row) != 0
    if weights is not None:
        live = live & (_coefficient(weights, baseline, strength, n) != 0)
    if live:
        base = logits + n.to(tl.int64) * stride_n * VEC + (row % length).to(tl.int64) * stride_l * VEC
        lanes = tl.arange(0, LANES)[:, None]
        within = tl.arange(0, VEC)[None, :]
        peak = tl.full([LANES], float("-inf"), tl.float32)
        total = tl.zeros([LANES], tl.float32)
        for start in range(0, vectors, LANES):
            x = tl.load(base + (start + lanes) * VEC + within, mask=start + lanes < vectors, other=float("-inf"))
            x = x.to(tl.float32)
            new_peak = tl.maximum(peak, tl.max(x, 1))
            shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # a group of -inf gives exp(-inf), not NaN
            total = total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
            peak = new_peak
        top = tl.max(peak, 0)
        top = tl.where(top == float("-inf"), 0.0, top)
        log_total = tl.log(tl.sum(total * tl.exp(peak - top), 0))
        target = tl.load(targets + row)
        known = (target >= 0) & (target < vectors * VEC)
        chosen = tl.load(base + tl.where(known, target, 0)).to(tl.float32)
        tl.store(log_probs + row, tl.where(known, (chosen - top) - log_total, float("nan")))
        tl.store(row_max + row, top)
        tl.store(log_sum + row, log_total)
    else:
        tl.store(log_probs + row, 0.0)
        tl.store(row_max + row, 0.0)
        tl.store(log_sum + row, 0.0)


@jit
def round_to(x, dtype: tl.constexpr, ROUND: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32 to `dtype`, rounded to nearest even. ROUND rounds by hand: Triton's interpreter truncates to
    bfloat16."""
    if ROUND:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    logits, targets, mask, row_max, log_sum, grad, scale, grad_logits,
    length, vectors, stride_n, stride_l, out_stride_n, out_stride_l,
    VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """c · (onehot - softmax) of one block of one row, zeros in a dead row. c = grad[row], or with a scale -grad ·
    scale[n]."""
    row = tl.program_id(0)
    n = row // length
    if scale is None:  # noqa: SIM108 - Triton decides this branch at compile time
        c = tl.load(grad + row)
    else:
        c = -tl.load(grad) * tl.load(scale + n)
    if mask is not None:
        c = tl.where(tl.load(mask + row) != 0, c, 0.0)
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)[:, None]
    columns = lanes * VEC + tl.arange(0, VEC)[None, :]
    inside = lanes < vectors
    n = n.to(tl.int64)
    position = (row % length).to(tl.int64)
    out = grad_logits + n * out_stride_n * VEC + position * out_stride_l * VEC + columns
    if c != 0:
        x = tl.load(logits + n * stride_n * VEC + position * stride_l * VEC + columns, mask=inside, other=0.0)
        p = tl.exp((x.to(tl.float32) - tl.load(row_max + row)) - tl.load(log_sum + row))
        target = tl.load(targets + row)
        c = tl.where((target >= 0) & (target < vectors * VEC), c, float("nan"))
        dx = c * tl.where(columns == target, 1.0 - p, -p)
        tl.store(out, round_to(dx, grad_logits.dtype.element_ty, ROUND), mask=inside)
    else:
        tl.store(out, tl.zeros([LANES, VEC], grad_logits.dtype.element_ty), mask=inside)


@jit
def _mean_nll_kernel(  # type: ignore[no-untyped-def]
    log_probs, mask, weights, baseline, strength, nll, term, scale, length,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean NLL over the m masked positions of one row n, a · mean NLL, and a / m; zeros if m = 0."""
    n = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at = n.to(tl.int64) * length + column
        total += tl.load(log_probs + at, mask=column < length, other=0.0)
        count += (tl.load(mask + at, mask=column < length, other=0) != 0).to(tl.int32)
    m = tl.maximum(tl.sum(count, 0), 1).to(tl.float32)
    a = _coefficient(weights, baseline, strength, n).to(tl.float32)
    mean = 0.0 - tl.sum(total, 0) / m  # 0, not -0, for a dead row
    tl.store(nll + n, mean)
    tl.store(term + n, a * mean)
    tl.store(scale + n, a / m)


def _vector(*tensors: Tensor) -> int:
    """Elements of a 16-byte access if every row of these [N, L, V] tensors starts on 16 bytes, else 1."""
    vector = 16 // tensors[0].itemsize
    steps = [x.shape[2] for x in tensors]
    steps += [x.stride(dim) for x in tensors for dim in (0, 1) if x.shape[dim] > 1]
    aligned = all(x.data_ptr() % 16 == 0 for x in tensors) and all(step % vector == 0 for step in steps)
    return vector if aligned else 1


# Options of a kernel that subtracts a baseline. It rounds the product and the difference one after the other, like
# PyTorch: then both agree which coefficients are exactly 0.
_UNFUSED = {"enable_fp_fusion": False}


def _weights(weights: Tensor | None, baseline: Tensor | None, strength: float) -> tuple[Tensor | None, Tensor | None]:
    """Weights and baseline for a kernel. It takes `strength` in float32, so a float64 baseline is subtracted here."""
    if weights is None or baseline is None or torch.float64 not in (weights.dtype, baseline.dtype):
        return weights, baseline
    return coefficients(weights, baseline, strength), None


def forward(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    baseline: Tensor | None,
    strength: float,
) -> tuple[Tensor, Tensor, Tensor]:
    count, length, vocab = logits.shape
    weights, baseline = _weights(weights, baseline, strength)
    log_probs, row_max, log_sum = (logits.new_empty(count, length, dtype=torch.float32) for _ in range(3))
    if count * length:
        config, vector = launch.launch_config("ce_forward", vocab, logits.dtype), _vector(logits)
        _forward_kernel[(count * length,)](
            logits, targets, mask, weights, baseline, strength, log_probs, row_max, log_sum,
            length, vocab // vector, logits.stride(0) // vector, logits.stride(1) // vector,
            VEC=vector, LANES=config.block // vector, num_warps=config.num_warps, num_stages=config.num_stages,
            **({} if baseline is None else _UNFUSED),
        )  # fmt: skip
    return log_probs, row_max, log_sum


def backward(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    out: Tensor,
) -> None:
    count, length, vocab = logits.shape
    if count * length:
        config, vector = launch.launch_config("ce_backward", vocab, logits.dtype), _vector(logits, out)
        strides = [x.stride(dim) // vector for x in (logits, out) for dim in (0, 1)]
        _backward_kernel[(count * length, -(-vocab // config.block))](
            logits, targets, mask, row_max, log_sum, grad, scale, out, length, vocab // vector, *strides,
            VEC=vector, LANES=config.block // vector, ROUND=rounds_by_hand(out.dtype),
            num_warps=config.num_warps, num_stages=config.num_stages,
        )  # fmt: skip


def rounds_by_hand(dtype: torch.dtype) -> bool:
    """The ROUND of `round_to`."""
    return paths.INTERPRETED and dtype == torch.bfloat16


def weighted_mean_nll(
    log_probs: Tensor, mask: Tensor, weights: Tensor, baseline: Tensor | None, strength: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, length = log_probs.shape
    nll, term, scale = (log_probs.new_empty(count) for _ in range(3))
    of_rows, baseline = _weights(weights, baseline, strength)
    if count:
        _mean_nll_kernel[(count,)](
            log_probs, mask, of_rows, baseline, strength, nll, term, scale, length, BLOCK=MEAN_BLOCK, num_warps=4,
            **({} if baseline is None else _UNFUSED),
        )  # fmt: skip
    return term.sum(), nll, scale


# Variant of a launch: its absent arguments. Mask, weights and baseline are optional; `scale` is for the weighted loss.
_VARIANTS = {
    "token": ("weights", "baseline", "scale"),
    "token_unmasked": ("mask", "weights", "baseline", "scale"),
    "weighted": (),
    "weighted_half": (),
    "weighted_alone": ("baseline",),
    "weighted_double": ("baseline",),
}
_SHAPES = {  # suffix: positions, vocabulary, variants
    "": (4096, 126464, tuple(_VARIANTS)),  # LLaDA's
    "_one": (1, 126464, ("token", "token_unmasked", "weighted", "weighted_alone")),  # also rows gathered before
    "_far": (200001, 126472, ("token", "weighted")),  # rows 2^31 apart, and no integer a multiple of 16
    "_odd": (7, 126463, ("token", "token_unmasked", "weighted", "weighted_alone")),  # no 16-byte access
}


def _examples(length: int, row: int) -> dict[str, int]:
    """The integers of a launch on contiguous logits with `row` vectors a row."""
    strides = {f"{out}stride_{dim}": step for out in ("", "out_") for dim, step in (("n", length * row), ("l", row))}
    return {"length": length, "vectors": row, **strides}


def production(arch: int) -> list[ProductionKernel]:
    """Every kernel of this file as launched on sm_`arch`, in every combination of optional arguments."""
    statistics = dict.fromkeys(("log_probs", "row_max", "log_sum", "grad", "scale", "nll", "term"), "*fp32")
    kernels = []
    for short, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        types = {"logits": f"*{short}", "grad_logits": f"*{short}", "targets": "*i64", "mask": "*i1"} | statistics
        for shape, (length, vocab, variants) in _SHAPES.items():
            vector = 1 if shape == "_odd" else 16 // dtype.itemsize
            integers = _examples(length, vocab // vector)
            for variant, (op, fn) in itertools.product(variants, _KERNELS.items()):
                if fn is _backward_kernel and variant.startswith("weighted_"):
                    continue  # the same code as "weighted"
                config = launch.launch_config(op, vocab, dtype, arch)
                constants: dict[str, int | None] = dict.fromkeys(_VARIANTS[variant])
                constants |= {"VEC": vector, "LANES": config.block // vector, "ROUND": False}
                name, typed = f"{op}_{variant}_{short}{shape}", types | _weight_types(variant)
                kernel = production_kernel(
                    name, fn, arch, typed, constants, config, integers=integers, wide_loads=vector > 1
                )
                kernels.append(replace(kernel, options=_options(kernel)))
    for length, variant in itertools.product((4095, 1), tuple(_VARIANTS)[2:]):
        typed, constants = types | _weight_types(variant), dict.fromkeys(_VARIANTS[variant])
        constants["BLOCK"] = MEAN_BLOCK
        config, name = LaunchConfig(MEAN_BLOCK, 4), f"mean_nll_{variant}{'_one' if length == 1 else ''}"
        kernel = production_kernel(
            name, _mean_nll_kernel, arch, typed, constants, config, integers={"length": length}, wide_loads=False
        )
        kernels.append(replace(kernel, options=_options(kernel)))
    return kernels


_KERNELS = {"ce_forward": _forward_kernel, "ce_backward": _backward_kernel}


def _weight_types(variant: str) -> dict[str, str]:
    dtype = {"weighted_double": "*fp64", "weighted_half": "*bf16"}.get(variant, "*fp32")
    return {"weights": dtype, "baseline": dtype, "strength": "fp32"}


def _options(kernel: ProductionKernel) -> dict[str, bool]:
    return _UNFUSED if kernel.signature.get("baseline", "constexpr") != "constexpr" else {}
