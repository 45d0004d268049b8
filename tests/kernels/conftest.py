"""Makes Triton's interpreter several times faster: it patches `triton.language` once a launch, not at every call.

Nothing else changes. Triton 3.9 patches the language again whenever one jitted function calls another, several thousand
times in a launch of a few hundred programs, with the same result each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import triton.language as tl
from triton.runtime import interpreter

from dmpo.kernels import launch


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Iterator[None]:
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[tuple[bool, bool]] = set()
    modules: dict[Callable[..., Any], tuple[bool, bool]] = {}

    def patch_once(fn: Callable[..., Any]) -> Any:
        if fn not in modules:
            modules[fn] = tl in (found := _modules(fn)), tl.core in found
        if modules[fn] in patched:
            return interpreter._LangPatchScope()  # nothing to undo
        patched.add(modules[fn])
        return patch(fn)

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> None:
        patched.clear()
        try:
            launch(self, *args, **kwargs)
        finally:
            patched.clear()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_afresh)
        yield


def _modules(fn: Callable[..., Any]) -> list[Any]:
    return [value for value in fn.__globals__.values() if value is tl or value is tl.core]


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The implementation named by the parameter: "plain" PyTorch or the "triton" kernels in the interpreter."""
    assert launch.INTERPRETED, "tests/conftest.py sets TRITON_INTERPRET=1 before anything imports triton"
    with launch.plain_path(request.param == "plain"):
        yield request.param
