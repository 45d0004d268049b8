"""The figures of a run: curves over steps, accuracies before and after, and the time of each phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PHASES = ("rollout", "reward", "score", "update", "evaluate", "checkpoint")


def plot_run(
    metrics: list[dict[str, Any]], timings: list[dict[str, Any]], summary: dict[str, Any], title: str, path: Path
) -> None:
    """Write a figure with eight panels to `path`.

    Seven panels show values over steps: reward (and each of several), accuracy, ESS (and, with `skip_equal_rewards`,
    the share of prompts whose rewards agree), log-ratio to the reference, token entropy, tokens per forward, and the
    mismatch of rollouts. The eighth shows the time of each phase.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [line["step"] for line in metrics]
    figure, axes = pyplot.subplots(2, 4, figsize=(16, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    reward, accuracy, ess, phases, ratio, entropy, speed, mismatch = axes.flat
    for axis, key, colour, panel_title in (
        (reward, "reward", "C0", "mean reward of rollouts"),
        (ess, "ess", "C3", "effective sample size / group size"),
        (ratio, "log_ratio", "C4", "log p_cur − log p_ref of rollouts (nats)"),
        (entropy, "entropy", "C5", "token entropy of the policy (nats)"),
        (speed, "tokens_per_forward", "C6", "tokens drawn per row-forward"),
        (mismatch, "rollout_mismatch", "C8", "rollout mismatch (nats a token)"),
    ):
        axis.plot(steps, [line[key] for line in metrics], color=colour)
        axis.set(title=panel_title)
    for key in dict.fromkeys(key for line in metrics for key in line if key.startswith("reward/")):
        reward.plot(steps, [line.get(key) for line in metrics], linewidth=1, label=key.removeprefix("reward/"))
        reward.legend(frameon=False, title="each reward, unweighted", fontsize="small", title_fontsize="small")
    ess.set(ylim=(0, 1))
    if any("left_out_equal" in line for line in metrics):  # with skip_equal_rewards
        equal = [line.get("equal_rewards") for line in metrics]
        ess.plot(steps, equal, "--", linewidth=1, color="grey", label="share of prompts whose rewards agree")
        ess.legend(frameon=False, fontsize="small")
    _plot_accuracy(accuracy, metrics, summary)
    _plot_phases(phases, timings)
    _save(figure, phases, path)


def plot_sft_run(
    metrics: list[dict[str, Any]], timings: list[dict[str, Any]], summary: dict[str, Any], title: str, path: Path
) -> None:
    """Write a figure of supervised fine-tuning with four panels: loss, gradient norm, accuracy, time of each phase."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(16, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    loss, norm, accuracy, phases = axes.flat
    steps = [line["step"] for line in metrics]
    loss.plot(steps, [line["loss"] for line in metrics], color="C0", linewidth=0.8, label="of the step")
    points = [(line["step"], line["held_out_loss"]) for line in metrics if "held_out_loss" in line]
    loss.plot(*zip(*points, strict=True) if points else ([], []), "o-", markersize=3, color="C3", label="validation")
    ends = [summary["held_out_loss_before"], summary["held_out_loss_after"]]
    loss.plot([0, summary["steps"]], ends, "D", color="grey", markerfacecolor="white", label="test, before and after")
    loss.legend(frameon=False)
    loss.set(title="loss of masked answers")
    norm.plot(steps, [line["grad_norm"] for line in metrics], color="C4")
    norm.set(title="gradient norm")
    if "greedy_accuracy_after" in summary:
        _plot_accuracy(accuracy, metrics, summary)
    else:
        accuracy.set(title="held-out accuracy: the task cannot judge")
    _plot_phases(phases, timings)
    _save(figure, phases, path)


def _plot_accuracy(accuracy: Any, metrics: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Accuracies, or mean rewards, of held-out rows over steps."""
    from matplotlib.ticker import PercentFormatter

    measure = "accuracy" if "greedy_accuracy_after" in summary else "reward"
    for name, colour in (("sampled", "C1"), ("greedy", "C2")):
        key = f"{name}_{measure}"
        points = [(m["step"], m[key]) for m in metrics if key in m]
        accuracy.plot(*zip(*points, strict=True) if points else ([], []), "o-", markersize=3, color=colour, label=name)
        ends = [summary[f"{key}_before"], summary[f"{key}_after"]]
        accuracy.plot([0, summary["steps"]], ends, "D", color=colour, markerfacecolor="white")
    accuracy.plot([], [], "D", color="grey", markerfacecolor="white", label="test rows, before and after")
    accuracy.legend(frameon=False, loc="lower right")
    if measure == "accuracy":
        accuracy.set(title="held-out accuracy", ylim=(0, 1.02))
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        accuracy.set(title="mean reward of held-out rows")


def _plot_phases(phases: Any, timings: list[dict[str, Any]]) -> None:
    totals = {phase: sum(line.get(phase, 0.0) for line in timings) for phase in PHASES}
    totals = {phase: seconds for phase, seconds in totals.items() if seconds}
    bars = phases.barh(list(totals), list(totals.values()), color="C7")
    phases.bar_label(bars, fmt="%.1f s", padding=3)
    phases.invert_yaxis()
    phases.margins(x=0.18)
    phases.set(title="time per phase")


def _save(figure: Any, phases: Any, path: Path) -> None:
    from matplotlib import pyplot

    for axis in figure.axes:
        if axis is not phases:
            axis.set_xlabel("gradient step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
