"""Which extra of dmpo installs a package that a benchmark lacks."""

from __future__ import annotations

PEERS, TOOLS = "bench", "dev"  # extras of pyproject.toml: peers to measure against, and what tests and the study need
_OF_PEERS = ("cut_cross_entropy", "liger_kernel")


def missing_package(error: ModuleNotFoundError) -> str:
    """What to do about a module that is not installed, in a line."""
    extra = PEERS if (error.name or "").split(".")[0] in _OF_PEERS else TOOLS
    return f"{error.name} is not installed: pip install 'dmpo[{extra}]', or in a checkout make .venv/.{extra}"
