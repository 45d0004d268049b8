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
    """What the numbers rest on, from the constants they were made with."""
    run = results["config"]
    points = [
        f"""Time of a kernel: the slower of its bytes over the bandwidth and its FLOPs over the peak of their unit.
        Kernels take turns. {reach_title(LIKELY)}: a guess, not a measurement. Caches are not modelled, so what fits L2
        (a step of dual_cache, say) may move faster.""",
        f"""Time of a pass, and of what follows it: the slower of its kernels and of its launches on the host. The host
        spends {HOST * 1e6:g} µs on each launch: three quarters are the CPU time of PyTorch, transformers and peft,
        measured without a GPU (`python -m benchmarks.predict.host_time`), and what CUDA adds is a guess. A host that is
        slower in short passes does not catch up in long ones. The launches of a step's bookkeeping are left out.""",
        f"""Bytes and FLOPs of a round are counted from the code itself on simulated tensors, op by op in eager mode:
        nothing is fused that PyTorch does not fuse; attention is one kernel without a score matrix; an exponential or
        logarithm is {ELEMENTARY} operations.""",
        """Published: benchmarks/baselines/decoders.py and training_step.py stand for the released code. Logits of every
        position that a pass ran on; float64 noise and softmax over all of them in rollouts, where dropout is live;
        cross-entropy of all positions in scoring and the loss. Its loops over rows, host synchronisations, 4-bit base
        and second set of logits in scoring are not counted, which favours it.""",
        f"""Ours: masked positions alone, on average half of the completion; one more pass of
        {run["rollout_batch_size"]} views a round for the entropy. On neither side a completion ends early or a prompt
        is padded.""",
        f"""Both: batches of {run["rollout_batch_size"]} in rollouts and scoring, {run["micro_batch_size"]} views a
        forward and backward, base weights in {run["dtype"]}; AdamW moves {ADAM_BYTES} bytes a trained weight, all of
        them on each GPU; nothing for communication between GPUs, the tokenizer or rewards.""",
        f""""{PUBLISHED.name}" and "{OURS.name}" hold adapters in bfloat16, as DeepSpeed makes them (so the published
        launch); "{OURS_DDP.name}" in float32, as plain `accelerate launch` has them, cast for each product.""",
        """With prefix_cache the pass of the middle block stands for all. More tokens a step than the schedule's are
        what a threshold might let pass, on both sides; how many it does depends on the model.""",
        """Memory: `dmpo plan` (ZeRO-2, or DDP with float32 adapters); published, with the simulated peak of its own
        logits and of what it makes of them in place of the kernels' pieces.""",
        f"""Kernels: counted at small sizes and scaled (`predict.kernels`); draws of {DRAWN} rows. At the roofline
        bytes and FLOPs overlap; in the likely figure they add up, but for cut-cross-entropy, whose products and moves
        are one kernel. dmpo's bytes from hidden states are those of its walks simulated at LLaDA's size, in
        {-(-VOCAB // TRITON_COLUMNS)} tiles or, with a trainable head and weights, in chunks of rows; the few of masks
        and of one number a row are left out, and of peers are not. cut-cross-entropy's are scaled, its tiles that are
        read again left out, which favours it.""",
    ]
    return "\n".join(f"- {' '.join(point.split())}" for point in points)
