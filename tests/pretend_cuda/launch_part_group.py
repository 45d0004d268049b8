"""The part of the table of launches that every test run counts again."""

from __future__ import annotations

from tests.pretend_cuda import launch_group
from tests.pretend_cuda.launch_group import measure as measure

CHECKED = (
    "canvas pass, LoRA",
    "block pass (dual_cache)",
    "scoring pass",
    "micro-batch, LoRA",
    "linear_weighted_ce frozen",
    "linear_weighted_ce trained",
    "linear_token_logprobs frozen",
    "masked_token_logprobs",
)
CASES = {name: launch_group.CASES[name] for name in CHECKED}
