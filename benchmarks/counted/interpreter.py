"""Runs Triton kernels in Triton's interpreter, on CPU tensors, inside a `with`, several times faster than Triton does.

Triton chooses between the compiler and the interpreter when a kernel is defined, from TRITON_INTERPRET. `interpreted`
chooses at each launch instead: the same process can then compile a kernel, interpret it and launch it on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import triton
import triton.language as tl
from triton.runtime import JITFunction, interpreter

from dmpo.kernels import launch
from dmpo.kernels.launch import paths


@contextmanager
def interpreted() -> Iterator[None]:
    """CPU tensors take the Triton path inside the `with`. Every kernel of the process runs in the interpreter, also the
    kernels of `triton.language`."""
    forms: dict[Callable[..., Any], Any] = {}

    def form(kernel: Any) -> Any:
        if kernel.fn not in forms:
            forms[kernel.fn] = interpreter.InterpretedFunction(kernel.fn)
        return forms[kernel.fn]

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return form(kernel).run(*args, grid=grid, warmup=warmup, **kwargs)

    def call(kernel: Any, *args: Any, **kwargs: Any) -> Any:  # one kernel calls another
        return form(kernel)(*args, **kwargs)

    with (
        triton.knobs.runtime.scope(),
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(JITFunction, "__call__", call),
        mock.patch.object(paths, "INTERPRETED", True),
        launch.plain_path(False),
        quick_interpreter(),
    ):
        triton.knobs.runtime.interpret = True
        yield


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Inside the `with` the interpreter patches `triton.language` once a launch, and undoes every patch after it.

    Triton 3.9 patches the language again whenever one jitted function calls another: several thousand times in a launch
    of a few hundred programs, with the same result each time. It never undoes these patches, so no kernel compiles
    afterwards.
    """
    patch, launch_all = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: dict[tuple[bool, bool], Any] = {}
    modules: dict[Callable[..., Any], tuple[bool, bool]] = {}

    def patch_once(fn: Callable[..., Any]) -> Any:
        if fn not in modules:
            values = fn.__globals__.values()
            modules[fn] = any(value is tl for value in values), any(value is tl.core for value in values)
        if modules[fn] not in patched:
            patched[modules[fn]] = patch(fn)
        return interpreter._LangPatchScope()  # an empty scope: `launch_and_undo` undoes the patches

    def launch_and_undo(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            launch_all(self, *args, **kwargs)
        finally:
            for scope in reversed(patched.values()):
                scope.restore()
            patched.clear()

    with (
        mock.patch.object(interpreter, "_patch_lang", patch_once),
        mock.patch.object(interpreter.GridExecutor, "__call__", launch_and_undo),
    ):
        yield
