"""Which path a tensor takes, how a Triton kernel is launched, and for which launches it is compiled."""

from .parameters import current_arch, forget_files, launch_config, longest_block, override
from .paths import jit, kernel_status, on_device, plain_path, tl, triton, uses_triton
from .table import LaunchConfig
from .variants import ProductionKernel, production_kernel

__all__ = [
    "LaunchConfig",
    "ProductionKernel",
    "current_arch",
    "forget_files",
    "jit",
    "kernel_status",
    "launch_config",
    "longest_block",
    "on_device",
    "override",
    "plain_path",
    "production_kernel",
    "tl",
    "triton",
    "uses_triton",
]
