"""Which extra of dmpo installs a package that a benchmark lacks."""

from __future__ import annotations

EXTRA = "bench"  # holds all that benchmarks import beside what dmpo itself needs


def missing_package(error: ModuleNotFoundError) -> str:
    """What to do about a module that is not installed, in a line."""
    return f"{error.name} is not installed: pip install 'dmpo[{EXTRA}]', or in a checkout make .venv/.{EXTRA}"
