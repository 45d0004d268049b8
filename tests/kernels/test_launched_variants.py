"""If this fails, an op launches a kernel in a form that the compile proof does not compile.

Triton compiles anew for arguments that are not given and for integers of 1, which it makes constants. Those of real
launches, in the interpreter, are looked up in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from benchmarks.counted.meter import as_on_a_gpu, measure
from dmpo import kernels
from dmpo.kernels.production import production_kernels

Form = tuple[str, frozenset[str], frozenset[str]]  # kernel, arguments not given, integers of 1
VOCAB = 8200  # LLaDA's divides by 64, as this does not; more than one tile


pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.fixture(scope="module")
def registered() -> set[Form]:
    forms = set()
    for kernel in production_kernels():
        runtime = {name for name in kernel.fn.arg_names if name.islower()}  # compile-time arguments are upper case
        absent = {name for name in runtime if name in kernel.constexprs and kernel.constexprs[name] is None}
        ones = {name for name in runtime if kernel.constexprs.get(name) == 1}
        forms.add((kernel.fn.__name__, frozenset(absent), frozenset(ones)))
    return forms


def launched(job: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> set[Form]:
    """The forms of every kernel that `job` launches."""
    forms: set[Form] = set()
    call = GridExecutor.__call__
    unspecialized = {  # by kernel; the interpreter does not know
        kernel.fn.__name__: set(getattr(kernel.fn, "do_not_specialize", None) or ()) | _NEVER
        for kernel in production_kernels()
    }

    def record(self: Any, *arguments: Any, **options: Any) -> Any:
        given = dict(zip(self.arg_names, arguments, strict=False))
        name = self.fn.__name__
        absent = frozenset(key for key, value in given.items() if value is None)
        ones = frozenset(
            key for key, value in given.items() if type(value) is int and value == 1 and key not in unspecialized[name]
        )
        forms.add((name, absent, ones))
        return call(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", record)
        job()
    return forms


_NEVER = {"key", "n_more", "fallback", "forbid_0", "forbid_1", "forbid_2", "forbid_3"}  # `sampling_triton`'s


def losses(rows: int, length: int, dtype: torch.dtype, *, trainable: bool) -> None:
    """Every loss once, forward and backward, and scoring."""
    generator = torch.Generator().manual_seed(0)
    mask, weights = torch.ones(rows, length, dtype=torch.bool), torch.ones(rows)
    targets = torch.randint(VOCAB, (rows, length), generator=generator)
    logits = torch.randn(rows, length, VOCAB, generator=generator).to(dtype).requires_grad_()
    hidden = torch.randn(rows, length, 16, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCAB, 16, generator=generator).to(dtype).requires_grad_(trainable)
    for baseline in (None, weights / 2):
        for narrow in (weights, weights.double(), weights.bfloat16()):
            same = None if baseline is None else baseline.to(narrow.dtype)
            kernels.weighted_masked_ce(logits, targets, mask, narrow, same)[0].backward()
    for some in (mask, None):
        kernels.masked_token_logprobs(logits, targets, some).sum().backward()
    for limit in (None, 6 * 8192 * rows * length):  # one wide tile; several of a block
        kernels.linear_weighted_ce(hidden, head, targets, mask, weights, max_logits_bytes=limit)[0].backward()
        kernels.linear_token_logprobs(hidden[mask], head, targets[mask], max_logits_bytes=limit).sum().backward()
        with torch.no_grad():
            kernels.linear_token_logprobs(hidden[mask], head, targets[mask], max_logits_bytes=limit)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("rows", "length"), [(2, 3), (1, 1), (3, 1), (1, 2)])
def test_losses_launch_what_is_compiled(
    rows: int, length: int, trainable: bool, registered: set[Form], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job() -> None:
        with as_on_a_gpu():
            measure(lambda: losses(rows, length, torch.bfloat16, trainable=trainable))

    forms = launched(job, monkeypatch)
    wanted = {"_forward_kernel", "_backward_kernel", "_mean_nll_kernel", "_finish_log_sum_kernel"}
    wanted |= {"_tile_softmax_kernel", "_wide_tile_softmax_kernel"}
    assert {form[0] for form in forms} >= wanted | ({"_tile_gradient_kernel"} if trainable else {"_finish_kernel"})
    assert forms - registered == set()


@pytest.mark.parametrize("forbid", [(), (5,), (0,), (1, 0), (3, 1, 2), (9, 8, 7, 6), range(7)])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_draws_launch_what_is_compiled(
    temperature: float, forbid: Any, registered: set[Form], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As decoding draws: from hidden states, one token forbidden; and any other number of them."""
    hidden, head = torch.randn(3, 16), torch.randn(VOCAB, 16)
    draw = (hidden, head, temperature)
    forms = launched(lambda: kernels.linear_sample_tokens(*draw, seed=1, forbid=forbid), monkeypatch)
    assert {form[0] for form in forms} == {"_tile_stats", "_draw"}
    assert forms - registered == set()


def test_forbidden_tokens_of_a_launch_are_arguments_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy from the host, which a CUDA graph could not hold, up to four of them."""
    made: list[Any] = []
    tensor = torch.tensor

    def noted(*given: Any, **more: Any) -> torch.Tensor:
        made.append(given)
        return tensor(*given, **more)

    monkeypatch.setattr(torch, "tensor", noted)
    logits = torch.randn(3, 50)
    for count in range(5):
        kernels.sample_tokens(logits, 0.5, seed=1, forbid=range(count))
    assert made == []
    ids, _ = kernels.sample_tokens(logits, 0.5, seed=1, forbid=range(49))
    assert ids.tolist() == [49] * 3
    assert len(made) == 1
