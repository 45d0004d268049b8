"""If these fail, FP8 products are less exact than their format, train other gradients, or leave a model changed."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dmpo.models import fp8
from dmpo.models.fp8 import (
    E4M3,
    Float8Linear,
    check_fp8_device,
    convert_base,
    emulated_product,
    fp8_base,
    quantise_rows,
    tensor_core_product,
)
from dmpo.models.lora import add_lora
from tests.tiny_models import tiny, tokens

# e4m3 has 3 bits of mantissa: rounding moves a value by at most 2^-4 of it. Below 2^-6 the spacing is 2^-9, and the
# largest value of a row lies at 2^7 or above: there rounding moves a value by at most 2^-10 / 2^7 of the largest.
RELATIVE, OF_LARGEST = 2.0**-4, 2.0**-17
SMALLEST_ROW = 2.0**-117  # rows whose largest value is smaller keep one scale
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def frozen_linear(inputs: int, outputs: int, *, dtype: torch.dtype = torch.float32, bias: bool = False) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype).requires_grad_(False)


def rounding_bound(rows: Tensor) -> Tensor:
    """How far quantising may move each element of rows [N, K], float64."""
    size = rows.double().abs()
    return RELATIVE * size + OF_LARGEST * size.amax(-1, keepdim=True).clamp(min=SMALLEST_ROW)


def dequantised(layer: Float8Linear) -> Tensor:
    return layer.weight.view(E4M3).double() * layer.scales.double()


def product_bound(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """How far an FP8 product may be from x · weightᵀ in float64: the operands' rounding, and one of the result."""
    moved_x, moved_weight = rounding_bound(x), rounding_bound(weight)
    size_x, size_weight = x.double().abs(), weight.double().abs()
    operands = moved_x @ size_weight.T + size_x @ moved_weight.T + moved_x @ moved_weight.T
    largest = (size_x + moved_x) @ (size_weight + moved_weight).T
    adding = x.shape[-1] * torch.finfo(torch.float32).eps * largest
    return operands + adding + torch.finfo(dtype).eps * largest + torch.finfo(dtype).smallest_normal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (3, 17, 5), (33, 64, 48)])
def test_products_are_as_exact_as_their_format(
    dtype: torch.dtype, spread: float, rows: int, inputs: int, outputs: int
) -> None:
    """spread: of the logarithms of the values, so that rows have outliers of 1e5 times their usual size."""
    torch.manual_seed(0)
    layer = frozen_linear(inputs, outputs, dtype=dtype)
    x = torch.randn(rows, inputs) * (spread * torch.randn(rows, inputs)).clamp(max=8).exp()
    x = x.to(dtype)
    out = Float8Linear(layer, for_training=False)(x)
    assert out.dtype == dtype
    exact = x.double() @ layer.weight.double().T
    assert ((out.double() - exact).abs() <= product_bound(x, layer.weight, dtype)).all()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=3,
    )
)
def test_no_row_is_moved_further_than_rounding_does(values: list[list[float]]) -> None:
    rows = torch.tensor(values)
    quantised, scales = quantise_rows(rows)
    assert quantised.dtype == E4M3
    assert torch.equal(scales.log2(), scales.log2().round()), "a power of two"
    assert quantised.float().isfinite().all()
    assert ((quantised.double() * scales.double() - rows.double()).abs() <= rounding_bound(rows)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_e4m3_has_are_exact(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    values = values[values.abs() <= 240][None]  # with 240 as the largest, the scale is 1
    quantised, scales = quantise_rows(values.to(dtype))
    assert scales.tolist() == [[1.0]]
    assert torch.equal(quantised.float(), values)
    for power in (-3, 5):
        moved, factor = quantise_rows((values * 2.0**power).to(dtype))
        assert torch.equal(moved.float(), values), "a power of two rounds nothing"
        assert factor.tolist() == [[2.0**power]]


def test_zeros_and_what_is_not_finite() -> None:
    """As in a plain product: zeros stay zeros, and a row that is not finite gives a row that is not finite."""
    layer = frozen_linear(4, 3)
    x = torch.tensor([[0.0] * 4, [float("inf"), 1, 1, 1], [float("nan"), 1, 1, 1], [1, 2, 3, 4]])
    out = Float8Linear(layer, for_training=False)(x)
    assert torch.equal(out[0], torch.zeros(3))
    assert out.isfinite().all(-1).tolist() == layer(x).isfinite().all(-1).tolist() == [True, False, False, True]
    with torch.no_grad():
        layer.weight[1, 2] = float("inf")
    out = Float8Linear(layer, for_training=False)(x[3:])
    assert out.isfinite()[0].tolist() == [True, False, True]
    assert Float8Linear(layer, for_training=False)(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_of_the_dequantised_weight(dtype: torch.dtype) -> None:
    """grad · weight, with the weight of the forward; the output's gradient is rounded to e4m3 after the weight's scales
    are multiplied into it."""
    torch.manual_seed(0)
    layer = Float8Linear(frozen_linear(48, 40, dtype=dtype, bias=True), for_training=True)
    x = torch.randn(2, 5, 48).to(dtype).requires_grad_()
    grad = (torch.randn(2, 5, 40) * torch.randn(2, 5, 1).exp()).to(dtype)
    layer(x).backward(grad)
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in layer.parameters())
    weight, scales = layer.weight.view(E4M3).double(), layer.scales.double().T
    bound = rounding_bound(grad.flatten(0, 1).double() * scales) @ weight.abs()
    exact = grad.double() @ dequantised(layer)
    rounding = 48 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    limit = bound.view_as(exact) + rounding * (grad.double().abs() @ dequantised(layer).abs())
    assert ((x.grad.double() - exact).abs() <= limit).all()
    # Both orders of the weight are the same numbers.
    assert layer.transposed is not None
    assert torch.equal(layer.transposed.T, layer.weight)


@pytest.mark.parametrize("fast", [False, True])
def test_what_a_gpu_is_asked_for_is_what_a_cpu_emulates(fast: bool) -> None:
    """On the CPU, where torch has a kernel of the same name for it; a GPU adds in another order."""
    torch.manual_seed(0)
    (rows, row_scales), (weight, scales) = quantise_rows(torch.randn(5, 32)), quantise_rows(torch.randn(48, 32))
    product = (rows, row_scales, weight, scales.t())
    try:
        got = tensor_core_product(*product, fast=fast)
    except NotImplementedError as error:
        pytest.skip(f"this version of torch has no FP8 products on a CPU: {error}")
    assert got.dtype == torch.bfloat16
    expected = emulated_product(*product, fast=fast)
    torch.testing.assert_close(got.float(), expected, rtol=2.0**-8, atol=1e-6)


def test_a_layer_without_a_backward_says_so() -> None:
    layer = Float8Linear(frozen_linear(8, 8), for_training=False)
    with pytest.raises(RuntimeError, match="for_training=True"):
        layer(torch.ones(1, 8, requires_grad=True))
    with torch.no_grad():
        layer(torch.ones(1, 8, requires_grad=True))


@pytest.mark.parametrize("adapted", [False, True])
def test_the_model_is_afterwards_what_it_was(adapted: bool) -> None:
    model: Any = tiny()
    if adapted:
        model = add_lora(model, rank=2, alpha=4, dropout=0.0)
    ids, before = tokens(2, 12), list(model.named_modules())
    state = copy.deepcopy(model.state_dict())
    plain = model(input_ids=ids).logits
    with torch.no_grad(), fp8_base(model):
        narrow = model(input_ids=ids).logits
        kinds = [type(module) for name, module in model.named_modules() if "lora_" not in name]
        assert kinds.count(Float8Linear) == 14
        assert nn.Linear not in kinds
    assert 0 < (narrow - plain).norm() / plain.norm() < 0.2
    assert [(name, id(module)) for name, module in model.named_modules()] == [(n, id(m)) for n, m in before]
    assert torch.equal(model(input_ids=ids).logits, plain)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(InterruptedError), fp8_base(model):
        raise InterruptedError
    assert [id(module) for module in model.modules()] == [id(module) for _, module in before]


def test_weights_are_quantised_once_a_phase_and_as_they_are_then(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny()
    shapes: list[tuple[int, ...]] = []

    def counted(rows: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(tuple(rows.shape))
        return quantise_rows(rows)

    monkeypatch.setattr(fp8, "quantise_rows", counted)
    ids = tokens(2, 12)
    with torch.no_grad(), fp8_base(model):
        assert len(shapes) == 14
        first = model(input_ids=ids).logits
        model(input_ids=ids)
        assert shapes[14:] == [(24, shape[1]) for shape in shapes[:14] * 2], "then only the rows of activations"
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.neg_()
        with fp8_base(model):
            assert not torch.equal(model(input_ids=ids).logits, first)


def test_a_converted_base_trains_its_adapters() -> None:
    """Forward as in `fp8_base`; gradients for the adapters alone, near those of a base of the dequantised weights."""
    torch.manual_seed(0)
    model: Any = add_lora(tiny(), rank=2, alpha=4, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    ids, twin = tokens(2, 12), copy.deepcopy(model)
    with torch.no_grad(), fp8_base(model):
        narrow = model(input_ids=ids).logits
    converted = convert_base(model, "cpu")
    logits = converted(input_ids=ids).logits
    assert torch.equal(logits, narrow)
    layers = {name: module for name, module in converted.named_modules() if isinstance(module, Float8Linear)}
    assert len(layers) == 14
    for name, layer in layers.items():
        twin.get_submodule(name).weight.data = dequantised(layer).float()
    for policy in (converted, twin):
        policy(input_ids=ids).logits.logsumexp(-1).sum().backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.requires_grad}
    got = {name: parameter.grad for name, parameter in converted.named_parameters() if parameter.grad is not None}
    assert got.keys() == expected.keys()
    cosines = [torch.cosine_similarity(got[n].flatten(), g.flatten(), dim=0) for n, g in expected.items() if g.any()]
    assert len(cosines) == 28
    assert min(cosines) > 0.95
    with pytest.raises(ValueError, match=r"weight of q_proj is trained, but FP8 weights are frozen; use LoRA"):
        convert_base(tiny(), "cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dmpo"):
        check_fp8_device("cpu", speaks=True)
    assert "emulated" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    for capability, works in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if works:
            check_fp8_device("cuda", speaks=True)
        else:
            with pytest.raises(ValueError, match=r"compute capability 8\.9 or more, got A100 \(8\.0\)"):
                check_fp8_device("cuda", speaks=True)
