"""What the prediction rests on, in words, from the constants that it was made with."""

from __future__ import annotations

from typing import Any

from benchmarks.predict.kernels import DRAWN, VOCAB
from benchmarks.predict.op_counts import ELEMENTARY
from benchmarks.predict.rl_round import ADAM_BYTES, OURS, OURS_DDP, PUBLISHED
from benchmarks.predict.roofline import BOUND, HOST, LIKELY
from dmpo.kernels.linear_ce.tiles import TRITON_COLUMNS


def reach_title(reach: Any) -> str:
    """A reach and its shares, as headings have it."""
    if reach == BOUND:
        return f"{BOUND.name}: the peaks of the data sheets, launches free"
    return (
        f"{reach.name}: {reach.arithmetic:.0%} of peak arithmetic, {reach.bandwidth:.0%} of peak bandwidth, "
        f"{reach.host * 1e6:.3g} µs of the host a launch"
    )


def assumptions(results: dict[str, Any]) -> str:
    """The assumptions of the prediction as a list, with its constants."""
    run = results["config"]
    points = [
        f"""Time of a kernel: the slower of its bytes over the bandwidth and its FLOPs over the peak of their unit.
        Kernels take turns. {reach_title(LIKELY)}: a guess, not a measurement. There is no model of caches: data that
        fit into L2 (in a step of dual_cache, for example) may move faster.""",
        f"""Time of a pass, and of the work after it: the slower of its kernels and its launches on the host. The host
        spends {HOST * 1e6:g} µs on each launch: three quarters are the CPU time of PyTorch, transformers and peft,
        measured without a GPU (`python -m benchmarks.predict.host_time`), and CUDA's share is a guess. A host that is
        slower in short passes does not catch up in long ones. The launches of a step's bookkeeping are left out.""",
        f"""Bytes and FLOPs of a round are counted from the code itself on simulated tensors, op by op in eager mode:
        only PyTorch's own fusions count; attention is one kernel without a score matrix; an exponential or logarithm is
        {ELEMENTARY} operations.""",
        """Published: benchmarks/baselines/decoders.py and training_step.py represent the released code. It computes the
        logits of every position of a pass. In rollouts it computes float64 noise and softmax over all of them, and
        dropout is live; in scoring and in the loss it computes the cross-entropy of all positions. Its loops over rows,
        host synchronisations, 4-bit base and second set of logits in scoring are not counted, which favours it.""",
        f"""Ours: masked positions alone, on average half of the completion; one more pass of
        {run["rollout_batch_size"]} views a round for the entropy. On both sides no completion ends early and no prompt
        is padded.""",
        """Ours also: the last layer runs on the rows that the head reads, the first pass of a batch once for each of
        its prompts, and rollouts with merged adapters, as the shipped config has it.""",
        """Levers: compile=layers replaces the kernels between the products, in all layers but the last, by kernels
        that Inductor schedules (`python -m benchmarks.predict.fused_layers`); their bytes grow with the tokens.
        A step that is one CUDA graph costs the host one launch. An FP8 product takes half the time of a
        bfloat16 product, and is counted as a GPU makes it; with compiled layers each adds one kernel that reads
        its operand twice and writes it in FP8, which is assumed. A base in FP8 takes no merged adapters.""",
        f"""Both: batches of {run["rollout_batch_size"]} in rollouts and scoring, {run["micro_batch_size"]} views a
        forward and backward, base weights in {run["dtype"]}; AdamW moves {ADAM_BYTES} bytes a trained weight, all of
        them on each GPU; nothing for communication between GPUs, the tokenizer or rewards.""",
        f""""{PUBLISHED.name}" and "{OURS.name}" have adapters in bfloat16, as with DeepSpeed, which the published
        launch uses; "{OURS_DDP.name}" has them in float32, as with plain `accelerate launch`, cast for each
        product.""",
        """With prefix_cache the pass of the middle block represents all blocks. A threshold may let more tokens pass in
        a step than the schedule, on both sides; the number depends on the model.""",
        """Memory: `dmpo plan` (ZeRO-2, or DDP with float32 adapters). For the published side the simulated peak of its
        own logits and of their softmax replaces the tiles of the kernels.""",
        f"""Kernels: counted at small sizes and scaled (`predict.kernels`); draws of {DRAWN} rows. At the roofline
        bytes and FLOPs overlap. In the likely figure they add up, except for cut-cross-entropy, which computes and
        moves in one kernel. dmpo's bytes from hidden states are simulated at LLaDA's size, in
        {-(-VOCAB // TRITON_COLUMNS)} tiles or, with a trainable head and weights, in row chunks. The few bytes of masks
        and of one number a row are left out for dmpo and counted for peers. The bytes of cut-cross-entropy are scaled;
        its tiles that are read again are left out, which favours it.""",
    ]
    return "\n".join(f"- {' '.join(point.split())}" for point in points)
