"""The launches for which a kernel is compiled, described without a GPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .table import LaunchConfig


@dataclass(frozen=True)
class ProductionKernel:
    """One kernel as it is launched in production: all that `triton.compile(ASTSource(...))` needs, without a GPU.

    signature: argument -> Triton type ("*bf16", "i32", "constexpr"); constexprs: argument -> value; attrs: 16-byte
    divisibility by argument position. wide_loads: rows of logits are read, so 16-byte global loads are expected.
    tensor_cores: it has a dot.
    """

    name: str
    fn: Any
    arch: int
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    attrs: Mapping[tuple[int, ...], list[list[Any]]]
    num_warps: int
    num_stages: int
    wide_loads: bool = True
    tensor_cores: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def production_kernel(
    name: str,
    fn: Any,
    arch: int,
    types: Mapping[str, str],
    constexprs: Mapping[str, Any],
    config: LaunchConfig,
    *,
    wide_loads: bool = True,
    tensor_cores: bool = False,
    unaligned: Collection[str] = (),
    integers: Mapping[str, int] | None = None,
) -> ProductionKernel:
    """Describe a launch: `types` of the run-time arguments, `constexprs` of the others. Names that `fn` does not take
    are left out. All pointers and integers except `unaligned` carry the hint that they divide by 16.

    `integers` are examples of run-time integers. Triton compiles for them as at a launch: a 1 is a constant, an integer
    of 2^31 or more is i64, and only multiples of 16 carry the hint.
    """
    given = {a: v for a, v in (integers or {}).items() if a in fn.arg_names}
    types = {**types, **{a: "i32" if v < 2**31 else "i64" for a, v in given.items()}}
    constexprs = {a: v for a, v in constexprs.items() if a in fn.arg_names}
    constexprs |= {a: v for a, v in given.items() if v == 1}
    unaligned = {*unaligned, *(a for a, v in given.items() if v % 16)}
    arguments = list(fn.arg_names)
    signature = {a: "constexpr" if a in constexprs else types[a] for a in arguments}
    hinted = [a for a, t in signature.items() if (t.startswith("*") or t in ("i32", "i64")) and a not in unaligned]
    attrs: dict[tuple[int, ...], list[list[Any]]] = {(arguments.index(a),): [["tt.divisibility", 16]] for a in hinted}
    return ProductionKernel(
        name,
        fn,
        arch,
        signature,
        constexprs,
        attrs,
        config.num_warps,
        config.num_stages,
        wide_loads,
        tensor_cores,
    )
