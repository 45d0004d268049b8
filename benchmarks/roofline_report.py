"""The Markdown and the plot of prediction.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.chart import BLUE, GREY, figure
from benchmarks.roofline import BOUND, LIKELY
from benchmarks.roofline_count import ELEMENTARY
from benchmarks.roofline_kernels import DRAWN, VOCAB
from benchmarks.roofline_step import ADAM_BYTES, OURS, OURS_DDP, PUBLISHED
from dmpo.kernels.linear_ce_tiles import TRITON_COLUMNS

LABEL = "prediction"  # opens every line of a table
MAIN = "H100"  # the device of the answer
GB = 10**9


def markdown(results: dict[str, Any]) -> str:
    """The report of what prediction.json holds."""
    found, run = results["header"], results["config"]
    commit = "no commit" if found["commit"] is None else f"commit {found['commit'][:9]}"
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("torch", "transformers", "peft"))
    text = [
        "# Prediction: LLaDA-8B on GPUs that were not at hand",
        "## In short",
        answer(results),
        f"Nothing here was measured on a GPU. {found['date'][:10]}, {commit}"
        f"{' with changes' if found['dirty'] else ''}, {versions}; `{found['command']}`.",
        "## One round of RL on one GPU, seconds",
        f"{run['name']}: {run['num_prompts']} prompts × {run['num_generations']} completions on {run['gpus']} GPUs, "
        f"{completions(run)} completions each; prompt {run['prompt']}, completion {run['gen_length']}, block "
        f"{run['block_length']}, {run['steps']} steps, T = {run['temperature']:g}; {run['score_views']} views under two"
        f" policies; {run['gradient_steps']} gradient steps on {run['replicates']} views each; LoRA r = "
        f"{run['lora_r']}. Cells: published / ours (times faster). Rewards are computed on the host, the same on both "
        "sides, and left out.",
    ]
    for reach in (LIKELY, BOUND):
        text += [f"### {_title(reach)}", _phases(results, reach.name)]
    text += [
        f"### Where it goes, {MAIN}, {LIKELY.name}",
        "Seconds. The model's passes are shared; logits, draws and losses are what dmpo's kernels replace.",
        _stages(results),
        "## Memory of one GPU at the peak of each phase, GB",
        _memory(results),
        "## Kernels at LLaDA's sizes, milliseconds",
        f"Counted bytes and FLOPs of `kernel_report`, scaled. {LIKELY.name} / {BOUND.name}, without launches.",
        *_kernels(results),
        "## Assumptions",
        assumptions(results),
        "## Devices",
        _devices(results),
    ]
    return "\n\n".join(text) + "\n"


def completions(run: dict[str, Any]) -> int:
    """Of one GPU and round."""
    return -(-int(run["num_prompts"]) * int(run["num_generations"]) // int(run["gpus"]))


def seconds(
    results: dict[str, Any], reach: str, device: str, approach: str, stage: str | None = None, **which: Any
) -> float:
    """Of the one part that `which` picks (phase, decoder, tokens_a_step, prompt, recomputed), or of its `stage`."""
    which = {"prompt": results["config"]["prompt"]} | which
    keys = ("phase", "decoder", "tokens_a_step", "prompt", "recomputed")
    (part,) = (
        part
        for part in results["parts"]
        if part["approach"] == approach and all(part.get(key) == which.get(key) for key in keys)
    )
    names = part["stages"] if stage is None else [stage]
    return float(sum(part["stages"][name]["seconds"][reach][device] for name in names if name in part["stages"]))


def lines(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of the table of phases: a name, and the parts that it adds up."""
    config, rollouts = results["config"], []
    own = config["gen_length"] // config["steps"]
    for part in results["parts"]:
        if part["approach"] == OURS.name and part["phase"] == "rollout" and part["prompt"] == config["prompt"]:
            note = "" if part["tokens_a_step"] == own else f", {part['tokens_a_step']} tokens a step (assumed)"
            which = {key: part[key] for key in ("phase", "decoder", "tokens_a_step")}
            rollouts.append((f"rollout, {part['decoder']}{note}", [which]))
    rest: list[dict[str, Any]] = [{"phase": "score"}, {"phase": "update"}]
    prompts = sorted({part["prompt"] for part in results["parts"]})
    rows = [*rollouts, ("score", rest[:1]), ("update", rest[1:])]
    rows.append(("update, gradient_checkpointing", [{"phase": "update", "recomputed": True}]))
    for name, (which,) in rollouts:
        rows.append((f"round, {name.removeprefix('rollout, ')}", [which, *rest]))
    name, (which,) = rollouts[0]
    for prompt in prompts[1:]:
        longer = [{**part, "prompt": prompt} for part in (which, *rest)]
        rows.append((f"round, {name.removeprefix('rollout, ')}, prompt {prompt}", longer))
    return rows


def _phases(results: dict[str, Any], reach: str) -> str:
    names = [device["name"] for device in results["devices"]]
    rows = []
    for name, parts in lines(results):
        cells = []
        for device in names:
            pair = [
                sum(seconds(results, reach, device, side, **p) for p in parts) for side in (PUBLISHED.name, OURS.name)
            ]
            cells.append(f"{pair[0]:.3g} / {pair[1]:.3g} ({pair[0] / pair[1]:.2f})")
        rows.append([name, *cells])
    return _table(["", *names], rows)


def _stages(results: dict[str, Any]) -> str:
    rows = []
    for approach in (PUBLISHED.name, OURS.name, OURS_DDP.name):
        for name, parts in lines(results):
            if name.startswith("round") or "recomputed" in parts[0]:
                continue
            spent = [seconds(results, LIKELY.name, MAIN, approach, stage, **parts[0]) for stage in ("trunk", "head")]
            rows.append([approach, name, f"{spent[0]:.3g}", f"{spent[1]:.2g}"])
    return _table(["", "phase", "the model's passes", "logits, draws, losses"], rows)


def _memory(results: dict[str, Any]) -> str:
    rows = []
    for held in results["memory"]:
        notes = [held["phase"], held.get("decoder", ""), "gradient_checkpointing" if held.get("recomputed") else ""]
        fits = [device["name"] for device in results["devices"] if held["bytes"] <= device["memory"]]
        rows.append([held["approach"], ", ".join(filter(None, notes)), f"{held['bytes'] / GB:.1f}", ", ".join(fits)])
    return _table(["", "phase", "peak", "fits"], rows)


def _kernels(results: dict[str, Any]) -> list[str]:
    names = [device["name"] for device in results["devices"]]
    text = []
    for title, peers in results["kernels"].items():
        rows = []
        for peer, row in peers.items():
            times = [[row["ms"][reach.name][name] for reach in (LIKELY, BOUND)] for name in names]
            cells = [f"{likely:.3g} / {bound:.3g}" for likely, bound in times]
            rows.append(
                [peer, f"{row['bytes'] / GB:.3g}", f"{row['flops'] / 1e12:.3g}" if row["flops"] else "–", *cells]
            )
        text += [f"### {title}", _table(["", "GB moved", "TFLOPs", *names], rows)]
    return text


def _devices(results: dict[str, Any]) -> str:
    rows = [
        [
            d["name"],
            f"{d['bandwidth'] / 1e12:.4g}",
            *(f"{d[unit] / 1e12:.4g}" for unit in ("tensor", "tf32", "fp32", "fp64")),
            f"{d['memory'] / GB:.0f}",
            d["source"],
        ]
        for d in results["devices"]
    ]
    return _table(["", "TB/s", "bf16 TFLOP/s, dense", "TF32", "fp32", "fp64", "GB", "source"], rows, "data sheet")


def _table(head: list[str], rows: list[list[str]], label: str = LABEL) -> str:
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    return "\n".join(lines + [f"| {label} | {' | '.join(row)} |" for row in rows])


def _title(reach: Any) -> str:
    if reach == BOUND:
        return f"{BOUND.name}: the peaks of the data sheets, launches free"
    return (
        f"{reach.name}: {reach.arithmetic:.0%} of peak arithmetic, {reach.bandwidth:.0%} of peak bandwidth, "
        f"{reach.launch * 1e6:g} µs a launch"
    )


def answer(results: dict[str, Any]) -> str:
    """What comes out, in sentences; on the device `MAIN`, at what is likely."""

    def gain(parts: list[dict[str, Any]], stage: str | None = None, ours: str = OURS.name) -> float:
        spent = [
            sum(seconds(results, LIKELY.name, MAIN, side, stage, **part) for part in parts)
            for side in (PUBLISHED.name, ours)
        ]
        return spent[0] / spent[1]

    rows = dict(lines(results))
    decoders = [name.removeprefix("round, ") for name in rows if name.startswith("round")]
    gains = {name: gain(rows[f"round, {name}"]) for name in decoders}
    (first, most), *rest = gains.items()
    whole = "; ".join([f"{most:.2f} times faster with {first}", *(f"{x:.2f} with {name}" for name, x in rest)])
    tails = ", ".join(
        f"{name} {gain(rows[row], 'head'):.0f}"
        for name, row in (("rollout", f"rollout, {decoders[0]}"), ("score", "score"), ("update", "update"))
    )
    held = {(x["approach"], x["phase"], x.get("decoder"), x.get("recomputed")): x["bytes"] for x in results["memory"]}
    peaks = [held[name, "rollout", "topk", None] / GB for name in (PUBLISHED.name, OURS.name)]
    wide = gain(rows[f"round, {decoders[0]}"], ours=OURS_DDP.name)
    spent = [
        sum(seconds(results, LIKELY.name, MAIN, side, **part) for part in rows[f"round, {decoder}"])
        for side, decoder in ((PUBLISHED.name, "prefix_cache"), (OURS.name, "dual_cache"))
    ]
    launch = spent[0] / spent[1]
    more = "The choice of the decoder matters more: b" if launch > max(gains.values()) else "B"
    slower = f"{wide:.2f} times faster" if wide >= 1 else f"{1 / wide:.2f} times slower"
    return (
        f"Predicted on an {MAIN}, the decoder the same on both sides: what follows the hidden states is {tails} times "
        f"faster, and the peak of a rollout falls from {peaks[0]:.0f} to {peaks[1]:.0f} GB. The model's own passes are "
        f"most of a round, and both sides make them, so a whole round is then {whole}. "
        f"{more}eside the released launch, which decodes with prefix_cache, ours with dual_cache is "
        f"{launch:.2f} times faster. With adapters kept in float32, as without DeepSpeed, a round of ours with "
        f"{decoders[0]} is {slower} than a published one, whose adapters DeepSpeed makes bfloat16. Scoring takes one "
        "pass more than published, which measures the entropy."
    )


def assumptions(results: dict[str, Any]) -> str:
    """What the numbers rest on, from the constants they were made with."""
    run = results["config"]
    points = [
        f"""Time of a kernel: the slower of its bytes over the bandwidth and its FLOPs over the peak of their unit.
        Kernels take turns. {_title(LIKELY)}: a guess, not a measurement. Caches are not modelled, so what fits L2 (a
        step of dual_cache, say) may move faster.""",
        f"""Bytes and FLOPs of a round are counted from the code itself on simulated tensors, op by op in eager mode:
        nothing is fused that PyTorch does not fuse; attention is one kernel without a score matrix; products of
        float32 are timed in TF32, though PyTorch leaves it off and dmpo does not turn it on; an exponential or
        logarithm is {ELEMENTARY} operations.""",
        """Published: `published_decoders` and `bench_step.published` stand for the released code. Logits of every
        position that a pass ran on; float64 noise and softmax over all of them in rollouts, where dropout is live;
        cross-entropy of all positions in scoring and the loss. Its loops over rows, host synchronisations, 4-bit base
        and second set of logits in scoring are not counted, which favours it.""",
        f"""Ours: masked positions alone, on average half of the completion; one more pass of
        {run["rollout_batch_size"]} views a round for the entropy. On neither side a completion ends early or a prompt
        is padded.""",
        f"""Both: batches of {run["rollout_batch_size"]} in rollouts and scoring, {run["micro_batch_size"]} views a
        forward and backward, base weights in {run["dtype"]}; AdamW moves {ADAM_BYTES} bytes a trained weight, all of
        them on each GPU; nothing for communication between GPUs, the tokenizer, rewards or the host.""",
        f""""{PUBLISHED.name}" and "{OURS.name}" hold adapters in bfloat16, as DeepSpeed makes them (so the published
        launch); "{OURS_DDP.name}" in float32, as plain `accelerate launch` has them, cast for each product.""",
        """With prefix_cache the pass of the middle block stands for all. More tokens a step than the schedule's are
        what a threshold might let pass, on both sides; how many it does depends on the model.""",
        """Memory: `dmpo plan` (ZeRO-2, or DDP with float32 adapters); published, with the simulated peak of its own
        logits and of what it makes of them in place of the kernels' pieces.""",
        f"""Kernels: counted at small sizes and scaled (`roofline_kernels`); draws of {DRAWN} rows. At the roofline
        bytes and FLOPs overlap; in the likely figure they add up, but for cut-cross-entropy, whose products and moves
        are one kernel. dmpo's bytes from hidden states are those of its walks simulated at LLaDA's size, in
        {-(-VOCAB // TRITON_COLUMNS)} tiles or, with a trainable head and weights, in chunks of rows; the few of masks
        and of one number a row are left out, and of peers are not. cut-cross-entropy's are scaled, its tiles that are
        read again left out, which favours it.""",
    ]
    return "\n".join(f"- {' '.join(point.split())}" for point in points)


def draw(results: dict[str, Any], path: Path) -> None:
    """A round by phase as stacked bars, published beside ours on every device, for the first and a cached decoder."""
    rows = [(name, parts) for name, parts in lines(results) if name.startswith("round") and "prompt" not in parts[0]]
    title = "Prediction, not a measurement: one round of RL on LLaDA-8B"
    with figure(path, 1, 2, size=(11, 4.6), title=title) as panels:
        for axes, (name, parts) in zip(panels, (rows[0], rows[2]), strict=True):
            _bars(axes, results, parts)
            axes.set_title(name.removeprefix("round, "))
        panels[0].legend(frameon=False)


SHADES = {
    ("rollout", "trunk"): ("rollout: passes", 1.0),
    ("rollout", "head"): ("rollout: logits, draws", 0.45),
    ("score", None): ("score", 0.8),
    ("update", "trunk"): ("update: passes", 0.65),
    ("update", "head"): ("update: logits, loss", 0.25),
}


def _bars(axes: Any, results: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    names = [device["name"] for device in results["devices"]]
    for offset, side, colour in ((-0.2, PUBLISHED.name, GREY), (0.2, OURS.name, BLUE)):
        places, base = [i + offset for i in range(len(names))], [0.0] * len(names)
        for (phase, stage), (label, shade) in SHADES.items():
            (part,) = (part for part in parts if part["phase"] == phase)
            spent = [seconds(results, LIKELY.name, name, side, stage, **part) for name in names]
            axes.bar(places, spent, 0.38, base, color=colour, alpha=shade, label=f"{side}, {label}")
            base = [low + high for low, high in zip(base, spent, strict=True)]
        for place, top in zip(places, base, strict=True):
            axes.annotate(f"{top:.0f}", (place, top), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("seconds a GPU, likely")
