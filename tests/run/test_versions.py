"""If these fail, `dmpo info` calls versions tested that were not, or the other way round."""

from __future__ import annotations

import pytest

from dmpo.run.versions import VersionSet, installed_versions, recorded_sets, whether_tested

OLD = VersionSet("oldest", "2026-01-02", "3.10.13", {"torch": "2.11.0+cu130", "peft": "0.18.0"}, 7, 0, 1)
NEW = VersionSet("newest", "2026-01-03", "3.13.0", {"torch": "2.14.1", "peft": "0.21.2"}, 8, 0, 0)
FAILED = VersionSet("pinned", "2026-01-04", "3.11.7", {"torch": "2.12.0", "peft": "0.21.2"}, 8, 1, 0)


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ({"python": "3.10.2", "torch": "2.11.0+cpu", "peft": "0.18.0"}, "yes: these versions together, on 2026-01-02"),
        ({"python": "3.13.5", "torch": "2.14.1", "peft": "0.21.2"}, "yes: these versions together, on 2026-01-03"),
        (
            {"python": "3.10.2", "torch": "2.14.1", "peft": "0.18.0"},
            "each version was tested, but not all of them together",
        ),
        (
            {"python": "3.10.2", "torch": "2.12.0", "peft": "0.20.0"},
            "not with torch 2.12.0 (2.11.0, 2.14.1 tested); not with peft 0.20.0 (0.18.0, 0.21.2 tested)",
        ),
        ({"python": "3.14.0", "torch": "2.14.1"}, "not with python 3.14 (3.10, 3.13 tested)"),
        ({"python": "3.10.1", "triton": "9.0"}, "not with triton 9.0 (none tested)"),
    ],
    ids=str,
)
def test_status(installed: dict[str, str], status: str) -> None:
    assert whether_tested(installed, [OLD, FAILED, NEW]) == status


def test_what_is_installed_is_compared() -> None:
    assert {"python", "torch", "transformers"} <= set(installed_versions())


def test_the_shipped_results_are_of_whole_runs() -> None:
    for tested in recorded_sets():
        assert tested.passed > 100
        assert tested.failed == 0
        assert whether_tested({"python": tested.python, **tested.versions}, recorded_sets()).startswith("yes")
