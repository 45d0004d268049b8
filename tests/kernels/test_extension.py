"""If these fail, an extension that cannot be used is used, or a user does not hear that it is not used, and why."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dmpo.kernels.remask.extension as extension
from dmpo.kernels import remask_

from .remask_rows import MASK, make_rows

pytestmark = pytest.mark.usefixtures("extension")


@pytest.mark.cpu_only("the status is the same")
def test_extension_is_built() -> None:
    built, reason = extension.extension_status()
    assert built, reason


@pytest.mark.cpu_only("the Python reference")
def test_a_missing_extension_is_logged_once_and_changes_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_rows(10, 30)
    expected = rows[0].clone()
    expected_moved = remask_(expected, *rows[1:], mask_id=MASK, num_transfer=4)
    monkeypatch.setattr(extension, "_module", None)
    monkeypatch.setattr(extension, "_status", "dmpo._C was left out by a test")
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        for _ in range(2):
            actual = rows[0].clone()
            moved = remask_(actual, *rows[1:], mask_id=MASK, num_transfer=4)
    assert [record.message for record in caplog.records] == [
        "remask_ runs its slow Python reference: dmpo._C was left out by a test"
    ]
    assert torch.equal(actual, expected)
    assert torch.equal(moved, expected_moved)
    assert extension.extension_status() == (False, "dmpo._C was left out by a test")


@pytest.mark.cpu_only("no operator runs")
def test_an_unusable_extension_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> Any:
        raise ImportError("undefined symbol: at_something")

    monkeypatch.setattr(extension.importlib, "import_module", import_module)
    module, reason = extension._load()
    assert module is None
    assert "undefined symbol: at_something" in reason
    assert "setup.py build_ext" in reason


@pytest.mark.cpu_only("no operator runs")
def test_an_extension_of_another_torch_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    built = {"torch": "99.2.0", "cuda": False, "reason": "", "oldest_torch": "99.1"}
    monkeypatch.setattr(extension.importlib, "import_module", lambda name: SimpleNamespace(build_info=lambda: built))
    module, reason = extension._load()
    assert module is None
    assert f"needs torch 99.1 or newer, but torch {torch.__version__} is running; install it with" in reason
    del built["oldest_torch"]  # as builds did that served one torch alone
    module, reason = extension._load()
    assert module is None
    assert "older than its sources (it was built for torch 99.2.0 alone); build it with `cd " in reason
    assert reason.endswith("setup.py build_ext --inplace`")


@pytest.mark.cpu_only("no operator runs")
def test_an_extension_older_than_its_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_OPERATORS", ("remask_", "a_newer_operator_"))
    module, reason = extension._load()
    assert module is None
    assert "it has no a_newer_operator_" in reason
