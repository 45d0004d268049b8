"""If these fail, a kernel spills, loads narrowly where its rows allow 16 bytes, or does not compile for sm_80, sm_90 or
sm_100."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmpo.kernels.production import production_kernels
from tests.kernels.compiled_child import run_compiled

ARCHS = (80, 90, 100)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every production configuration, compiled; a list of `benchmarks.counted.cubin.Compiled` as dictionaries."""
    path = tmp_path_factory.mktemp("cubin") / "compiled.json"
    done = run_compiled("-m", "benchmarks.counted.cubin", "--ptx", "--json", str(path))
    assert path.is_file(), done.stdout + done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize("arch", ARCHS)
def test_no_spills_and_sixteen_byte_loads(compiled: list[dict[str, Any]], arch: int) -> None:
    here = [kernel for kernel in compiled if kernel["arch"] == arch]
    assert {kernel["name"]: kernel["faults"] for kernel in here if kernel["faults"]} == {}
    for kernel in here:
        assert 16 <= kernel["registers"] <= 255, kernel["name"]
        assert kernel["spills"] == kernel["local_instructions"] == 0
        assert not kernel["wants_wide"] or kernel["wide_loads"] >= kernel["row_loads"] >= 1


def test_every_production_kernel_is_compiled(compiled: list[dict[str, Any]]) -> None:
    done = {(kernel["name"], kernel["arch"]) for kernel in compiled}
    assert done == {(kernel.name, kernel.arch) for kernel in production_kernels()}


def test_every_op_dtype_and_architecture_is_registered() -> None:
    """Also rows that 16 bytes do not fit (an odd vocabulary), a vocabulary's last tile, and every optional argument."""
    wide = {arch: {k.name: k.wide_loads for k in production_kernels() if k.arch == arch} for arch in ARCHS}
    assert wide[80] == wide[90] == wide[100]
    assert wide[90]["tile_log_sum_fp32"]
    assert wide[90]["tile_log_sum_fp32_last"]
    assert wide[90]["tile_log_sum_fp32_wide"]
    for dtype in ("bf16", "fp16", "fp32"):
        for stem in ("sample_tile_stats", "sample_draw"):
            found = [name for name in wide[90] if name.startswith(stem) and name.endswith(dtype)]
            assert found, f"no production kernel {stem}*{dtype}"
            assert all(wide[90][name] for name in found)
        for stem in ("tile_softmax", "tile_gradient"):
            assert wide[90][f"{stem}_{dtype}"]
            assert wide[90][f"{stem}_{dtype}_last"]
            assert wide[90][f"{stem}_{dtype}_wide_last"]
        forward, backward = (
            {n.removeprefix(stem): w for n, w in wide[90].items() if n.startswith(stem) and f"_{dtype}" in n}
            for stem in ("ce_forward_", "ce_backward_")
        )
        for variant in ("token", "token_unmasked", "weighted", "weighted_alone"):
            names = [f"{variant}_{dtype}{shape}" for shape in ("", "_odd")]
            assert [forward[name] for name in names] == [True, False]
            assert variant == "weighted_alone" or [backward[name] for name in names] == [True, False]
        assert forward[f"token_{dtype}_far"]
        assert backward[f"weighted_{dtype}_far"]


APART = """
from dataclasses import replace

import triton, triton.language as tl
from benchmarks.counted.cubin import compile_kernel
from dmpo.kernels.sampling import triton_kernels as sampling
from dmpo.kernels.launch import LaunchConfig, production_kernel
from dmpo.kernels.production import production_kernels

names = ("ce_forward_weighted_bf16", "ce_backward_token_fp32", "tile_softmax_fp16_last", "sample_draw_plain_bf16",
         "ce_forward_token_bf16_odd")
for kernel in production_kernels():
    if kernel.arch == 90 and kernel.name in names:
        ptx, sass = compile_kernel(kernel, ptx=True), compile_kernel(kernel)
        print("sass", ptx.wide_loads == sass.wide_loads, ptx.spills == sass.local_instructions == 0)

@triton.jit
def hoard(logits, out, vocab, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(logits + at * vocab).to(tl.float32)
    tl.store(out + at * vocab, x * tl.sum(x, 0))

types = {"logits": "*bf16", "out": "*fp32", "vocab": "i32"}
kernel = production_kernel("broken", hoard, 90, types, {"BLOCK": 16384}, LaunchConfig(16384, 1), tensor_cores=True)
for ptx in (False, True):
    for fault in compile_kernel(kernel, ptx=ptx).faults():
        print("broken", fault)

for kernel in sampling.production(90):
    if kernel.name.endswith(("tempered_bf16", "argmax_bf16")):
        ones = {"n_forbid": 1, "tiles": 1, "fallback": 1, "stride": 1}
        ones = {name: value for name, value in ones.items() if name in kernel.signature}
        types = {name: "constexpr" if name in ones else type_ for name, type_ in kernel.signature.items()}
        constants = {**kernel.constexprs, **ones}
        one = replace(kernel, signature=types, constexprs=constants, attrs={}, wide_loads=False)
        print("ones", compile_kernel(one).faults())
"""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What kernels printed that are compiled one by one, the test's name first."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "apart.py").write_text(APART)
    done = run_compiled("apart.py", path=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_machine_code_loads_as_ptx_says(apart: list[str]) -> None:
    assert [line.split()[1:] for line in apart if line.startswith("sass")] == [["True", "True"]] * 5


def test_the_proof_can_fail(apart: list[str]) -> None:
    faults = [line.removeprefix("broken ") for line in apart if line.startswith("broken")]
    assert len(faults) == 6
    for spills, loads, dots in (faults[:3], faults[3:]):
        assert spills.startswith("spills: ")
        assert loads.startswith("16-byte loads: 0")
        assert dots == "no tensor-core instruction"


def test_sampler_compiles_for_odd_vocabularies_and_arguments_of_one(apart: list[str]) -> None:
    """Triton makes an argument of 1 a constant and drops alignment it cannot see: other code than at LLaDA's shape."""
    assert [line for line in apart if line.startswith("ones")] == ["ones []"] * 3
