"""Recorded runs of the published decoders: prompts, options, tokens and forwards."""

from __future__ import annotations

import json

from tests.tiny_models import DATA

GOLDEN = json.loads((DATA / "golden" / "decoders.json").read_text())
OPTIONS = (
    "decoder",
    "gen_length",
    "block_length",
    "steps",
    "threshold",
    "cfg_scale",
    "wino_threshold",
    "wino_threshold_back",
)
