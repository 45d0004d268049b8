"""The work of one round of RL on LLaDA-8B on one GPU, phase by phase, in the published approach and in dmpo.

Both run the same model on the same rows in batches of the same size. They differ in the work after the last hidden
state (`llada_passes`), in what spares work in the passes (`Levers`), and in dropout, which is live in published
rollouts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import Ops, Passes, one_graph, without_launches
from benchmarks.predict.roofline import Work
from dmpo.config import DMPOConfig
from dmpo.config.decoding import Decoder
from dmpo.planning.ledger import Ledger
from dmpo.planning.memory import Architecture, HeadMemory

PHASES = ("rollout", "score", "update")
Stages = dict[str, Passes]  # trunk, head, and of an update the optimizer

ADAM_BYTES = 28  # a float32 weight and both its moments read and written, its gradient read


@dataclass(frozen=True)
class Levers:
    """What spares work in the model's passes.

    head_rows: the last layer runs on the rows that the head reads. shared_prompt: the first pass of a batch runs once
    for each prompt. Both are always on in dmpo. merged: adapters are merged into the weights in rollouts, as the
    shipped configs of 8B models have it. compiled: decoder layers are fused. graph: a step on a block beside kept keys
    and values is one CUDA graph. fp8_rollouts, fp8_training: products of the base in FP8, in rollouts, and in scoring
    and updates.
    """

    head_rows: bool = False
    shared_prompt: bool = False
    merged: bool = False
    compiled: bool = False
    graph: bool = False
    fp8_rollouts: bool = False
    fp8_training: bool = False


NONE, ALWAYS = Levers(), Levers(head_rows=True, shared_prompt=True)
SHIPPED = replace(ALWAYS, merged=True)


@dataclass(frozen=True)
class Approach:
    """tail: what follows the last hidden states, published or ours. wide_adapters: LoRA's weights in float32, as peft
    makes them in a bfloat16 model, or bfloat16, as DeepSpeed makes them of that. rollout_dropout: whether dropout is
    live in rollouts."""

    name: str
    tail: str
    wide_adapters: bool
    rollout_dropout: bool
    sharding: str
    levers: Levers = SHIPPED


PUBLISHED = Approach("published", "published", wide_adapters=False, rollout_dropout=True, sharding="zero2", levers=NONE)
OURS = Approach("ours", "ours", wide_adapters=False, rollout_dropout=False, sharding="zero2")
OURS_DDP = Approach("ours, float32 adapters", "ours", wide_adapters=True, rollout_dropout=False, sharding="ddp")
APPROACHES = (PUBLISHED, OURS, OURS_DDP)


@dataclass(frozen=True)
class Round:
    """A run's config, the GPUs it is spread over, and what is assumed of its data.

    prompt: tokens, the same for all. decoder: of the rollout. tokens_a_step: what a step unmasks of a block, on
    average: the config's own is gen_length / steps; more is an assumption on what a threshold lets pass.
    """

    config: DMPOConfig
    gpus: int
    prompt: int
    decoder: Decoder
    tokens_a_step: int

    @property
    def width(self) -> int:
        return self.prompt + self.config.gen_length

    @property
    def completions(self) -> int:
        """Of one GPU."""
        return -(-self.config.num_prompts * self.config.num_generations // self.gpus)

    @property
    def batches(self) -> int:
        return -(-self.completions // self.config.rollout_batch_size)


def round_of(config: DMPOConfig, *, gpus: int, prompt: int, **changes: Any) -> Round:
    scheduled = config.gen_length // config.steps
    return replace(Round(config, gpus, prompt, config.decoder, scheduled), **changes)


def rollout(counts: Simulation, run: Round, approach: Approach) -> Stages:
    """All steps of all batches. No completion ends early; behind a prefix the middle block stands for all."""
    config, batch, width, levers = run.config, run.config.rollout_batch_size, run.width, approach.levers
    blocks, steps = config.gen_length // config.block_length, config.block_length // run.tokens_a_step
    later = {"prefix_cache": (config.gen_length + config.block_length) // 2, "dual_cache": config.block_length}
    how: dict[str, Any] = {"adapters": not levers.merged, "fp8": levers.fp8_rollouts, "compiled": levers.compiled}
    how |= {"dropout": approach.rollout_dropout, "read": config.block_length if levers.head_rows else 0}
    times = run.batches * blocks
    trunk: Passes = []
    head: Passes = []
    for step in range(steps):
        seen = later.get(run.decoder, width) if step else width
        live = batch * (config.block_length - step * run.tokens_a_step)
        if levers.graph and run.decoder == "dual_cache" and step:
            block = counts.forward(batch, seen, width, **how)
            draw = counts.tail(approach.tail, "rollout", batch, seen, batch * config.block_length)
            trunk.append((one_graph(block), times))
            head.append((without_launches(draw), times))
            continue
        whole = counts.forward(batch, seen, width if seen < width else 0, **how)
        shares = levers.shared_prompt and not step
        trunk.append((whole, times - run.batches * shares))
        if shares:
            trunk.append((_first_pass(counts, run, how), run.batches))
        head.append((counts.tail(approach.tail, "rollout", batch, seen, live), times))
    return {"trunk": trunk, "head": head}


def _first_pass(counts: Simulation, run: Round, how: dict[str, Any]) -> Ops:
    """The first pass of a batch, once for each of its prompts, and the rows made of it."""
    batch, model = run.config.rollout_batch_size, counts.model
    prompts = -(-batch // run.config.num_generations)
    one = counts.forward(prompts, run.width, **how)
    if run.decoder not in ("prefix_cache", "dual_cache"):
        return one
    keys = (model.num_key_value_heads or model.num_attention_heads) * (model.hidden_size // model.num_attention_heads)
    copy = Work(2.0 * (prompts + batch) * run.width * keys, launches=1)  # bfloat16
    return one + Counter({copy: 2 * model.num_hidden_layers})


def score(counts: Simulation, run: Round, approach: Approach) -> Stages:
    """`score_views` views of each completion under both policies; dmpo also passes one batch for the entropy."""
    config, batch, width = run.config, run.config.rollout_batch_size, run.width
    passes, live = run.batches * config.score_views, _masked(config, batch)
    how = _scored(config, approach.levers, live)
    adapted, plain = (counts.forward(batch, width, adapters=adapters, **how) for adapters in (True, False))
    tail = counts.tail(approach.tail, "score", batch, width, live)
    trunk = [(adapted, passes + (approach.tail == "ours")), (plain, passes)]
    return {"trunk": trunk, "head": [(tail, 2 * passes)]}


def update(counts: Simulation, run: Round, approach: Approach) -> Stages:
    """All gradient steps of the round."""
    config, rows = run.config, run.config.micro_batch_size
    passes, live = config.gradient_steps * -(-config.replicates * run.completions // rows), _masked(config, rows)
    tail = counts.tail(approach.tail, "update", rows, run.width, live)
    step = Work(ADAM_BYTES * counts.trained(), fp32=15 * counts.trained(), launches=1)
    return {
        "trunk": [(counts.training(rows, run.width, **_scored(config, approach.levers, live)), passes)],
        "head": [(tail, passes)],
        "optimizer": [(Counter({step: 1}), config.gradient_steps)],
    }


def _scored(config: DMPOConfig, levers: Levers, live: int) -> dict[str, Any]:
    """How a pass over views runs: on which rows the last layer, and whether its layers are fused."""
    rows = {"read": config.gen_length, "live": live} if levers.head_rows else {}
    return {**rows, "compiled": levers.compiled}


def _masked(config: DMPOConfig, rows: int) -> int:
    """Masked tokens of so many views, on average."""
    return round(rows * config.gen_length * (config.mask_rate_min + config.mask_rate_max) / 2)


def memory(counts: Simulation, run: Round, approach: Approach) -> dict[str, int]:
    """Bytes of one GPU at the peak of each phase, by `dmpo plan`; published, with the tail's peak as counted here in
    place of dmpo's."""
    # rollouts are counted with adapters
    config = replace(
        run.config, max_prompt_length=run.prompt, decoder=run.decoder, merge_adapters=approach.levers.merged
    )
    head: type[HeadMemory] = HeadMemory
    if approach.tail == "published":
        batch, micro = config.rollout_batch_size, config.micro_batch_size
        peaks = {
            "sampling": counts.tail_peak("published", "rollout", batch, run.width, 0),
            "scoring": counts.tail_peak("published", "score", batch, run.width, 0),
            "entropy": 0,
            "loss": counts.tail_peak("published", "update", micro, run.width, 0),
        }
        head = type("AllPositions", (HeadMemory,), peaks)  # numbers in place of properties
    ledger = Ledger(config, Architecture.of(counts.model), run.gpus, approach.sharding, "cuda", head)
    update_size = ledger.micro_batch(config.micro_batch_size)
    phases = {"rollout": ledger.rollout(), "score": ledger.score(), "update": ledger.update(update_size)}
    return {phase: sum(phases[phase].values()) for phase in PHASES}
