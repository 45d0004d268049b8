"""The list of all Triton kernels, each in every configuration that the ops launch."""

from __future__ import annotations

from .launch import ProductionKernel
from .launch.table import ARCHITECTURES
from .linear_ce import triton_kernels as linear_ce
from .masked_ce import triton_kernels as masked_ce
from .sampling import triton_kernels as sampling


def production_kernels() -> list[ProductionKernel]:
    """Every configuration the ops launch, for sm_80, sm_90 and sm_100: each kernel module's `production(arch)`."""
    modules = (masked_ce, linear_ce, sampling)
    return [kernel for arch in ARCHITECTURES for module in modules for kernel in module.production(arch)]
