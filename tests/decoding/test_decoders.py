"""If these fail, a decoder's rows see each other or their padding, its cache is stale, or its books are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from dmpo import generate
from dmpo.models.lora import add_lora
from tests.decoding.unsure_models import each_alignment, tiny
from tests.tiny_models import tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6}
BY_CONFIDENCE = ("parallel", "prefix_cache", "dual_cache")
CASES: list[dict[str, Any]] = [
    {"decoder": "topk"},
    {"decoder": "topk", "remasking": "random"},
    {"decoder": "topk", "cfg_scale": 0.5},
    *({"decoder": d, "threshold": 0.3} for d in BY_CONFIDENCE),
    *({"decoder": d, "factor": 1.0} for d in BY_CONFIDENCE),
    *({"decoder": d} for d in BY_CONFIDENCE),
    {"decoder": "dual_cache", "threshold": 0.5, "cfg_scale": 0.5},
    {"decoder": "wino", "wino_threshold": 0.3, "wino_threshold_back": 0.6},
    {"decoder": "wino", "wino_threshold": 0.3, "wino_threshold_back": 0.6, "cfg_scale": 0.5},
    {"decoder": "random_order"},
    {"decoder": "risk", "threshold": 0.3, "steps": 12},
    {"decoder": "risk", "threshold": 0.3, "cfg_scale": 0.5, "steps": 12},
    {"decoder": "entropy", "entropy_bound": 2.0},
    {"decoder": "hierarchy", "threshold": 0.5, "low_threshold": 0.2},
    {"decoder": "credit", "threshold": 0.5, "credit_alpha": 0.05},
    {"decoder": "topk", "confidence_eos_eot_inf": True},
    {"decoder": "topk", "logits_eos_inf": True},
]


def _name(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values())


every_case = pytest.mark.parametrize("case", CASES, ids=_name)


@every_case
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@each_alignment
def test_a_row_does_not_see_its_neighbours(make: Any, case: dict[str, Any], temperature: float) -> None:
    model, prompts, ids = make(), tokens(5, 6), torch.tensor([4, 0, 9, 2, 7])
    options = SHAPE | case | {"seed": 5, "temperature": temperature, "early_stop": True}
    whole = generate(model, prompts, row_ids=ids, **options)
    alone = [generate(model, prompts[r : r + 1], row_ids=ids[r : r + 1], **options) for r in range(5)]
    for name in ("sequences", "order", "log_probs"):
        # Matrix products of another height round differently; a log-probability is exact to a few units of 1e-7.
        torch.testing.assert_close(
            getattr(whole, name), torch.cat([getattr(r, name) for r in alone]), rtol=1e-4, atol=1e-5
        )
    # Rows leave when they are done, and nobody runs because others still do. Without their prompt all rows are the
    # same, and the first call runs on one of them.
    shared = 4 if "cfg_scale" in case else 0
    assert whole.row_forwards == sum(r.row_forwards for r in alone) - shared
    if "threshold" in case or "factor" in case or case["decoder"] == "wino":
        assert len({r.row_forwards for r in alone}) > 1, "all rows need the same number of steps"
    if case["decoder"] in ("parallel", "wino", "topk", "random_order", "risk", "entropy", "hierarchy", "credit"):
        assert whole.forwards == max(r.forwards for r in alone)


def test_rows_go_at_their_own_pace() -> None:
    """As many calls as the row that needs most; lockstep pays for the slowest row of each block."""
    model, prompts = tiny(), tokens(12, 6)
    options = SHAPE | {"decoder": "parallel", "threshold": 0.3, "gen_length": 24, "steps": 24}
    alone = [generate(model, prompts[r : r + 1], **options) for r in range(12)]
    steps_by_block = torch.cat([r.order for r in alone]).view(12, 6, 4).amax(-1)
    lockstep = int((steps_by_block - torch.cat([torch.full((12, 1), -1), steps_by_block[:, :-1]], 1)).amax(0).sum())
    whole = generate(model, prompts, **options)
    assert whole.forwards == max(r.forwards for r in alone) < lockstep
    assert whole.row_forwards == sum(r.forwards for r in alone) < 12 * lockstep


@every_case
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@each_alignment
def test_left_padding_changes_nothing(make: Any, case: dict[str, Any], attention: str) -> None:
    model, prompt = make(), tokens(2, 6)
    model.set_attn_implementation(attention)
    padded = torch.cat([torch.full((2, 3), EOS), prompt], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6] * 2)
    plain = generate(model, prompt, **SHAPE | case).sequences[:, 6:]
    assert torch.equal(generate(model, padded, attention_mask=mask, **SHAPE | case).sequences[:, 9:], plain)
    assert not torch.equal(generate(model, padded, **SHAPE | case).sequences[:, 9:], plain), "padding went unnoticed"


PADDING = {"right": [1] * 6 + [0] * 3, "both": [0, 0] + [1] * 6 + [0], "holes": [1, 0, 1, 1, 0, 0, 1, 1, 1]}


@every_case
@each_alignment
def test_padding_anywhere_changes_nothing(make: Any, case: dict[str, Any]) -> None:
    """On the right, on both sides, between the tokens: the completion follows on the prompt's last token."""
    model, prompt, mask = make(), tokens(3, 6), torch.tensor(list(PADDING.values()))
    padded = torch.full((3, 9), EOS).masked_scatter(mask.bool(), prompt)
    plain = generate(model, prompt, **SHAPE | case)
    made = generate(model, padded, attention_mask=mask, **SHAPE | case)
    assert torch.equal(made.sequences, torch.cat([padded, plain.sequences[:, 6:]], 1)), "the prompt is as it was given"
    torch.testing.assert_close(made.log_probs, plain.log_probs, rtol=1e-3, atol=1e-4)


@every_case
def test_mask_token_is_never_drawn(case: dict[str, Any]) -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[MASK] = 50 * model.lm_head.weight.sum(0)  # extreme logits, of either sign
    for temperature in (0.0, 1.5):
        made = generate(model, tokens(16, 4), temperature=temperature, **SHAPE | case)
        assert not (made.sequences == MASK).any()


@every_case
def test_early_stop_fills_with_eos(case: dict[str, Any]) -> None:
    model = tiny(vocab_size=8, init_std=0.2)  # EOS is one token in eight, and likely
    options = SHAPE | case | {"temperature": 1.0}
    plain = generate(model, tokens(32, 4, vocab_size=8), **options)
    stopped = generate(model, tokens(32, 4, vocab_size=8), early_stop=True, **options)
    ended = 0
    for row, order, log_probs, free in zip(
        stopped.sequences[:, 4:].tolist(),
        stopped.order.tolist(),
        stopped.log_probs.tolist(),
        plain.sequences[:, 4:].tolist(),
        strict=True,
    ):
        end = row.index(EOS) + 1 if EOS in row else len(row)
        ended += EOS in row
        assert row[:end] == free[:end]
        assert set(row[end:]) <= {EOS}
        assert min(order[:end]) >= 0
        assert set(order[end:]) <= {-1}
        assert set(log_probs[end:]) <= {0.0}
    if "logits_eos_inf" in case:
        assert ended == 0
    else:
        assert ended > 8
        assert stopped.row_forwards < plain.row_forwards


@every_case
def test_each_of_several_eos_ends_a_row(case: dict[str, Any]) -> None:
    """The config's, or those given; what follows is filled with the first."""
    model, prompt = tiny(vocab_size=8, init_std=0.2), tokens(32, 4, vocab_size=8)
    options = SHAPE | case | {"temperature": 1.0}
    plain = generate(model, prompt, eos_id=[EOS, 5], **options).sequences[:, 4:].tolist()
    given = generate(model, prompt, early_stop=True, eos_id=[EOS, 5], **options)
    model.config.eos_token_id = [EOS, 5]
    stopped = generate(model, prompt, early_stop=True, **options)
    assert torch.equal(stopped.sequences, given.sequences)
    ends = []
    for row, order, free in zip(stopped.sequences[:, 4:].tolist(), stopped.order.tolist(), plain, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in (EOS, 5)), len(row))
        assert row[:end] == free[:end]
        assert set(row[end:]) <= {EOS}
        assert set(order[end:]) <= {-1}
        ends.append(row[end - 1])
    assert ends.count(5) > 4
    assert ends.count(EOS) == 0 if "logits_eos_inf" in case else ends.count(EOS) > 4


@pytest.mark.parametrize("decoder", BY_CONFIDENCE[1:])
@pytest.mark.parametrize(
    "rule", [{}, {"threshold": 0.5}, {"factor": 1.0}, {"threshold": 0.5, "cfg_scale": 0.5}], ids=str
)
@each_alignment
def test_cache_is_exact_for_one_layer(make: Any, decoder: str, rule: dict[str, Any]) -> None:
    """Keys and values of a first layer depend on tokens alone, and no token outside the block changes."""
    padded = torch.cat([torch.full((5, 2), EOS), tokens(5, 6)], 1)
    mask = torch.tensor([[0, 0] + [1] * 6, *[[1] * 8] * 4])
    options = SHAPE | rule | {"attention_mask": mask}
    for layers in (1, 2):
        model = make(num_layers=layers)
        exact = generate(model, padded, decoder="parallel", **options)
        cached = generate(model, padded, decoder=decoder, **options)
        if layers == 1:
            assert torch.equal(exact.sequences, cached.sequences)
            torch.testing.assert_close(exact.log_probs, cached.log_probs, rtol=1e-4, atol=1e-5)
        else:
            assert not torch.allclose(exact.log_probs, cached.log_probs, rtol=1e-2), "the cache was not even used"


def test_cached_pass_runs_on_what_its_name_says() -> None:
    model, widths = tiny(), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for decoder, block, later in (("prefix_cache", 0, 12), ("dual_cache", 0, 4), ("prefix_cache", 1, 8)):
        widths.clear()
        generate(model, tokens(2, 6), decoder=decoder, **SHAPE)
        assert widths[2 * block : 2 * block + 2] == [(2, 18), (2, later)]


def test_wino_takes_tokens_back() -> None:
    prompts = tokens(8, 6)
    options = SHAPE | {"decoder": "wino", "wino_threshold": 0.1, "gen_length": 16, "block_length": 16, "steps": 16}
    hasty = generate(tiny(), prompts, wino_threshold_back=0.0, **options)
    careful = generate(tiny(), prompts, wino_threshold_back=0.9, **options)
    assert hasty.row_forwards < careful.row_forwards
    assert not torch.equal(hasty.sequences, careful.sequences)


def test_random_order_is_a_uniform_permutation() -> None:
    result = generate(
        tiny(), tokens(1, 4).expand(1200, -1), decoder="random_order", gen_length=6, block_length=3, steps=6
    )
    assert result.forwards == 6
    assert torch.equal(result.order.sort(-1).values, torch.arange(6, dtype=torch.int32).expand(1200, -1))
    assert (result.order[:, :3] < 3).all()
    for block in (result.order[:, :3], result.order[:, 3:] - 3):
        counts = torch.bincount((block * torch.tensor([9, 3, 1])).sum(-1), minlength=22)
        assert stats.chisquare(counts[counts > 0].cpu().numpy()).pvalue > 1e-3
        assert (counts > 0).sum() == 6


@every_case
def test_books_are_right(case: dict[str, Any]) -> None:
    result = generate(tiny(), tokens(4, 6), temperature=1.0, **SHAPE | case)
    assert result.order.min() >= 0
    assert (result.log_probs < 0).all()
    doubled = 2 if "cfg_scale" in case else 1
    assert result.row_forwards <= result.forwards * 4 * doubled
    assert result.tokens_per_forward == 48 / result.row_forwards
    assert result.seconds > 0
    if case["decoder"] == "topk":
        assert result.forwards == 6


def test_threshold_sets_the_pace() -> None:
    model, prompts = tiny(), tokens(4, 6)
    for decoder in BY_CONFIDENCE:
        assert generate(model, prompts, decoder=decoder, threshold=0.0, **SHAPE).forwards == 3
        assert generate(model, prompts, decoder=decoder, threshold=1.0, **SHAPE).forwards == 12
        assert generate(model, prompts, decoder=decoder, factor=100.0, **SHAPE).forwards == 3
        assert generate(model, prompts, decoder=decoder, factor=0.0, **SHAPE).forwards == 12


def test_guidance_is_that_of_the_logits() -> None:
    model, prompt = tiny(), tokens(3, 6)
    canvas = torch.cat([prompt, torch.full((3, 1), MASK)], 1)
    alone = canvas.clone()
    alone[:, :6] = MASK
    with torch.no_grad():
        conditional, unconditional = model(canvas).logits[:, 6], model(alone).logits[:, 6]
    guided = unconditional + 2.5 * (conditional - unconditional)
    guided[:, MASK] = float("-inf")
    result = generate(model, prompt, decoder="topk", gen_length=1, block_length=1, steps=1, cfg_scale=1.5)
    assert torch.equal(result.sequences[:, 6], guided.argmax(-1))
    expected = guided.double().log_softmax(-1).amax(-1).float()
    torch.testing.assert_close(result.log_probs[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["dual_cache", "wino"])
def test_adapters_are_seen(decoder: str) -> None:
    model = tiny()
    plain = generate(model, tokens(2, 6), decoder=decoder, **SHAPE)
    adapted = add_lora(model, rank=4, alpha=8, dropout=0.5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    result = generate(adapted, tokens(2, 6), decoder=decoder, **SHAPE)
    assert not torch.equal(plain.log_probs, result.log_probs)
    again = generate(adapted, tokens(2, 6), decoder=decoder, **SHAPE)
    assert torch.equal(again.log_probs, result.log_probs), "dropout is live"


def test_nan_logits_end_all_the_same() -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    for case in CASES:
        result = generate(model, tokens(2, 6), **SHAPE | case)
        assert not (result.sequences == MASK).any()


def test_count_schedules_never_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a block reads a tensor's value on the host; with a threshold one look a step does."""
    import traceback

    looks: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy"):
        plain = getattr(torch.Tensor, name)

        def spied(self: Any, *args: Any, _plain: Any = plain, _name: str = name, **kwargs: Any) -> Any:
            caller = traceback.extract_stack(limit=2)[0]
            if "decoding" in caller.filename or "masked_lm" in caller.filename:
                looks.append(f"{_name} at {caller.filename}:{caller.lineno}")
            return _plain(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]] * 3)

    def count(**options: Any) -> tuple[int, int]:
        looks.clear()
        result = generate(tiny(), tokens(3, 6), attention_mask=mask, **SHAPE | options)
        return len(looks), result.forwards

    before, _ = count(decoder="topk", steps=3)  # the checks of the arguments
    for decoder in ("topk", "parallel", "prefix_cache", "dual_cache", "random_order"):
        assert count(decoder=decoder)[0] == before, looks
    for options in (
        {"decoder": "parallel", "threshold": 0.5},
        {"decoder": "dual_cache", "factor": 1.0},
        {"decoder": "wino"},
    ):
        seen, forwards = count(**options)
        assert seen == before + forwards, looks
