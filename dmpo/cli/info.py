"""`dmpo info`."""

from __future__ import annotations

import argparse

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing."""


def run(arguments: argparse.Namespace) -> None:
    """Print device, versions and kernels."""
    import torch

    from ..kernels.launch import kernel_status
    from ..kernels.remask import extension_status
    from ..run.versions import PACKAGES, installed_version, installed_versions, recorded_sets, whether_tested

    for name in ("dmpo", *PACKAGES):
        print(f"{name:<13} {installed_version(name) or 'not installed'}")
    print(f"{'tested':<13} {whether_tested(installed_versions(), recorded_sets())}")
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{'device':<13} {device}")
    built, reason = extension_status()
    print(f"{'remasking':<13} {'C++ extension' if built else 'plain PyTorch'} ({reason})")
    used, why = kernel_status("cuda" if cuda else "cpu")
    print(f"{'losses, draw':<13} {'Triton' if used else 'plain PyTorch, masked rows only'} ({why})")


COMMAND = Command(
    name="info",
    text="Tell device, versions, and which kernels are in use and why.",
    example="dmpo info",
    add_arguments=add_arguments,
    run=run,
)
