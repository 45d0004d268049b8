"""The Markdown of prediction.json."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import packages_text, short_commit
from benchmarks.predict.assumptions import assumptions, reach_title
from benchmarks.predict.levers import ALL_BUT_FP8, ALL_BUT_MERGED, DECODER
from benchmarks.predict.rl_round import OURS, OURS_DDP, PHASES, PUBLISHED
from benchmarks.predict.roofline import BOUND, LIKELY, Attainable

LABEL = "prediction"  # opens every line of a table of predictions
MAIN = "H100"  # the device of the answer
GB = 10**9


def markdown(results: dict[str, Any]) -> str:
    """The report of what prediction.json holds."""
    found, run = results["header"], results["config"]
    text = [
        "# Prediction: LLaDA-8B on GPUs",
        "## In short",
        answer(results),
        f"{measured_or_not(results)} {found['date'][:10]}, commit {short_commit(found)}, "
        f"{packages_text(found, ('torch', 'transformers', 'peft'))}; `{found['command']}`.",
        "## Measured beside predicted",
        *_beside(results),
        "## One round of RL on one GPU, seconds",
        f"{run['name']}: {run['num_prompts']} prompts × {run['num_generations']} completions on {run['gpus']} GPUs, "
        f"{completions(run)} completions each; prompt {run['prompt']}, completion {run['gen_length']}, block "
        f"{run['block_length']}, {run['steps']} steps, T = {run['temperature']:g}; {run['score_views']} views under two"
        f" policies; {run['gradient_steps']} gradient steps on {run['replicates']} views each; LoRA r = "
        f"{run['lora_r']}. Cells: published / ours (times faster). Rewards are computed on the host, the same on both "
        "sides, and left out.",
    ]
    names = [device["name"] for device in results["devices"]]
    for each in results["measured"]:
        reach = Attainable(**each["reach"])
        text += [f"### {reach_title(reach)} ({each['device']})", _phases(results, reach.name, [each["device"]])]
    for reach in (LIKELY, BOUND):
        text += [f"### {reach_title(reach)}", _phases(results, reach.name, names)]
    text += [
        f"### Where it goes, {MAIN}, {LIKELY.name}",
        "Seconds. The model's passes are shared; logits, draws and losses are what dmpo's kernels replace. The host "
        "launches all of it, and the device waits where the host is the slower one.",
        _stages(results),
        "## What each lever is worth",
        *levers(results),
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
    stages = _stages_of(results, approach, which)
    names = stages if stage is None else [stage]
    return float(sum(stages[name]["seconds"][reach][device] for name in names if name in stages))


def host_seconds(results: dict[str, Any], approach: str, **which: Any) -> float:
    """What the host spends on the launches of the one part that `which` picks, as `seconds` does."""
    return float(sum(stage["host_seconds"] for stage in _stages_of(results, approach, which).values()))


def _stages_of(results: dict[str, Any], approach: str, which: dict[str, Any]) -> dict[str, Any]:
    which = {"prompt": results["config"]["prompt"]} | which
    keys = ("phase", "decoder", "tokens_a_step", "prompt", "recomputed")
    (stages,) = (
        part["stages"]
        for part in results["parts"]
        if part["approach"] == approach and all(part.get(key) == which.get(key) for key in keys)
    )
    return dict(stages)


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


def _phases(results: dict[str, Any], reach: str, names: list[str]) -> str:
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
            host = host_seconds(results, approach, **parts[0])
            rows.append([approach, name, f"{spent[0]:.3g}", f"{spent[1]:.2g}", f"{host:.3g}"])
    return _table(["", "phase", "the model's passes", "logits, draws, losses", "the host's launches"], rows)


def levers(results: dict[str, Any]) -> list[str]:
    """A table for the device of the answer, and one for every device with measurements."""
    text = [
        f"{results['config']['name']}, decoder {DECODER} on both sides of a ratio, seconds of a round of ours. "
        "Compared with no lever, and with the released launch: the published algorithm, decoder prefix_cache. A lever "
        "that is not exact changes rounding (merge_adapters) or precision (FP8)."
    ]
    for reach, device in _lever_pairs(results):
        released = sum(
            seconds(results, reach, device, PUBLISHED.name, **part)
            for part in dict(lines(results))["round, prefix_cache"]
        )
        rows = []
        for row in results["levers"]:
            spent = row["seconds"][reach][device]
            whole, before = sum(spent.values()), sum(results["levers"][0]["seconds"][reach][device].values())
            cells = [*(f"{spent[phase]:.3g}" for phase in PHASES), f"{whole:.3g}", f"{whole / before:.2f}"]
            rows.append([row["name"], "yes" if row["exact"] else "no", *cells, f"{released / whole:.2f}"])
        head = ["", "exact", *PHASES, "round", "of no lever", "times faster than released"]
        text += [f"### {device}, {reach}", _table(head, rows)]
    return text


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
            *(f"{d[unit] / 1e12:.4g}" for unit in ("tensor", "fp32", "fp64")),
            f"{d['memory'] / GB:.0f}",
            d["source"],
        ]
        for d in results["devices"]
    ]
    return _table(["", "TB/s", "bf16 TFLOP/s, dense", "fp32", "fp64", "GB", "source"], rows, "data sheet")


def _table(head: list[str], rows: list[list[str]], label: str = LABEL) -> str:
    return table(["", *head], [[label, *row] for row in rows])


def measured_or_not(results: dict[str, Any]) -> str:
    """Whether anything of it was measured, and how far off the predictions are then, in a sentence for each device."""
    sentences = []
    for each in results["measured"]:
        ratios = [x["measured"] / x["predicted"][LIKELY.name] for x in each["figures"] if x["unit"] == "ms"]
        off = f"; times are {median(ratios):.2f} times the likely ones (median of {len(ratios)})" if ratios else ""
        head = each["header"]
        sentences.append(f"Measured on {head['device']}, {head['date'][:10]}, and set beside the prediction{off}.")
    for name in results["without_data_sheet"]:
        sentences.append(f"Measured on {name}, too, of which no data sheet is known here.")
    return " ".join(sentences) or "Nothing here was measured on a GPU."


def _beside(results: dict[str, Any]) -> list[str]:
    """A table for every device with measurements; the names of the other devices."""
    text = [
        "Ratio: measured over predicted. The last two columns are predicted with the ceilings measured on the device."
    ]
    for each in results["measured"]:
        rows = []
        for figure in each["figures"]:
            cells = []
            for name in (LIKELY.name, each["reach"]["name"]):
                predicted = figure["predicted"][name]
                cells += [f"{predicted:.3g}", f"{figure['measured'] / predicted:.2f}"]
            rows.append([figure["name"], f"{figure['measured']:.3g} {figure['unit']}", *cells])
        head = ["", each["header"]["device"], LIKELY.name, "ratio", "with measured ceilings", "ratio"]
        text.append(_table(head, rows, "measured"))
    measured = {each["device"] for each in results["measured"]}
    rest = [device["name"] for device in results["devices"] if device["name"] not in measured]
    missing = f"{', '.join(rest)}: nothing measured on this device yet (`python -m benchmarks.gpu` measures)."
    return [*(text if measured else []), *([missing] if rest else [])]


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
        "most of a round. Ours run the last layer on the rows that the head reads, the first pass once a prompt, and "
        f"rollouts with merged adapters. So a whole round is then {whole}. "
        f"{more}eside the released launch, which decodes with prefix_cache, ours with dual_cache is "
        f"{launch:.2f} times faster. With adapters kept in float32, as without DeepSpeed, a round of ours with "
        f"{decoders[0]} is {slower} than a published one, whose adapters DeepSpeed makes bfloat16. Scoring takes one "
        f"pass more than published, which measures the entropy. {_answer_of_levers(results)}"
    )


def _answer_of_levers(results: dict[str, Any]) -> str:
    """The rounds with every lever but FP8, and with FP8, of the round with none."""
    sentences = []
    for reach, device in _lever_pairs(results):
        of_none = {
            row["name"]: sum(row["seconds"][reach][device].values())
            / sum(results["levers"][0]["seconds"][reach][device].values())
            for row in results["levers"]
        }
        sentences.append(
            f"With compiled layers and one graph a cached step, too, a round with {DECODER} takes "
            f"{of_none[ALL_BUT_FP8]:.2f} of the time that it takes without any lever, and with FP8 in place of merged "
            f"adapters {of_none[ALL_BUT_MERGED]:.2f} ({device}, {reach})."
        )
    return " ".join(sentences)


def _lever_pairs(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(reach, device) of each table of levers."""
    return [(LIKELY.name, MAIN), *((each["reach"]["name"], each["device"]) for each in results["measured"])]
