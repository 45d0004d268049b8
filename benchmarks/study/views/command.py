"""Question: which views of a completion know log p best, at equal forwards?

    python -m benchmarks.study views                             # ten minutes of one core, then views.md and views.png
    python -m benchmarks.study views --subjects "Markov chain"   # some subjects; the records of others stay
    python -m benchmarks.study views --report                    # table and plot from the record alone

Completions are drawn at temperature 1. Each way to draw R views gives many estimates of each completion's log p. Their
variance, the mean over completions, stands beside the variance of R independent uniform rates. The bias is against the
ELBO: exact where completions have 4 tokens, and from 1,024 stratified views elsewhere. Intervals are 95 % bootstrap
intervals over completions, ± a standard error of the draws.
Results: benchmarks/results/study/views/ (records.json, views.md, views.png).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.chart import figure
from benchmarks.harness.extras import missing_package
from benchmarks.harness.markdown import table
from benchmarks.study.records import STUDY
from dmpo.rollouts.masking import WeightedViews, sample_views

from .subjects import Subject, subjects

Draw = Callable[[Tensor, int, int, Tensor], WeightedViews]  # eligible, R, key, row ids
Record = dict[str, Any]
VIEWS = (2, 4, 8)
BASE = "independent rates, 0.1 to 0.9"
_METHOD = __doc__.split("\n\n")[2].partition("\nResults:")[0]


def _plain(**options: Any) -> Draw:
    def draw(eligible: Tensor, replicates: int, key: int, row_ids: Tensor) -> WeightedViews:
        views: Any = sample_views(eligible, replicates, key=key, row_ids=row_ids, **options)
        return views if isinstance(views, WeightedViews) else WeightedViews(views, None)

    return draw


def _strata_of_the_rate(eligible: Tensor, replicates: int, key: int, row_ids: Tensor) -> WeightedViews:
    """View k has a rate from the k-th of R strata of [0, 1]; never empty, as uniform views are. A trial's form."""
    views = [
        sample_views(
            eligible,
            1,
            key=replicates * key + k,
            row_ids=row_ids,
            antithetic=False,
            rate_range=(k / replicates, (k + 1) / replicates),
        )
        for k in range(replicates)
    ]
    return WeightedViews(torch.cat(views), None)


WAYS: dict[str, Draw] = {
    BASE: _plain(antithetic=False),
    "independent rates, 0 to 1": _plain(antithetic=False, rate_range=(0.0, 1.0)),
    "pairs, 0.1 to 0.9 (the default)": _plain(),
    "pairs, 0 to 1": _plain(rate_range=(0.0, 1.0)),
    "strata of the rate": _strata_of_the_rate,
    "strata of the number": _plain(rates="stratified", antithetic=False),
    "strata of the number, antithetic": _plain(rates="stratified"),
    "gauss": _plain(rates="gauss", antithetic=False),
}


def measure(subject: Subject, replicates: Sequence[int] = VIEWS, count: int | None = None) -> list[Record]:
    """A record for each way and R; count: estimates of each completion, as many as the subject says by default."""
    number, elbo, records = count or subject.number, subject.elbo, list[Record]()
    eligible, row_ids = subject.eligible.repeat(number, 1), torch.arange(number * len(elbo))
    for views in replicates:
        base: Tensor | None = None
        for key, (name, draw) in enumerate(WAYS.items()):
            values = subject.estimates(draw(eligible, views, key, row_ids), row_ids, views).view(number, len(elbo))
            variances, mean = values.var(0), values.mean(0)
            base = variances if base is None else base
            low, high = _interval(variances, base)
            records.append(
                {
                    "subject": subject.name,
                    "length": round(float(subject.eligible.sum(-1).double().mean()), 1),
                    "completions": len(elbo),
                    "estimates": number,
                    "way": name,
                    "views": views,
                    "elbo": _rounded(elbo.mean()),
                    "bias": _rounded((mean - elbo).mean()),
                    "bias_error": _rounded(variances.sum().sqrt() / len(elbo) / number**0.5),
                    "variance": _rounded(variances.mean()),
                    "ratio": _rounded(variances.mean() / base.mean()),
                    "ratio_low": low,
                    "ratio_high": high,
                    "rmse": _rounded(((values - elbo) ** 2).mean().sqrt()),
                }
            )
            print(f"{subject.name}, R = {views}, {name}: variance {records[-1]['variance']:.3g}", flush=True)
    return records


def _interval(variances: Tensor, base: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval over completions of the ratio of the mean variances."""
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(base), (1000, len(base)), generator=draw)
    ratios = variances[chosen].mean(1) / base[chosen].mean(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype))
    return _rounded(low), _rounded(high)


def _rounded(value: Tensor) -> float:
    return float(f"{float(value):.4g}")


def write(records: Sequence[Record], folder: Path) -> None:
    """views.md and views.png."""
    head = [
        "views of a completion",
        "R",
        "variance",
        "against independent rates",
        "bias, nats",
        "root mean square error",
    ]
    lines = ["# Which views know log p best, at equal forwards?", "", _METHOD.replace("\n", " "), ""]
    subjects = list(dict.fromkeys(record["subject"] for record in records))
    for subject in subjects:
        own = [record for record in records if record["subject"] == subject]
        of = own[0]
        lines += [
            f"## {subject}",
            "",
            f"{of['completions']} completions of {of['length']:g} tokens, {of['estimates']:,} estimates each. The mean "
            f"ELBO is {of['elbo']:.4g} nats.",
            "",
            table(
                head,
                [
                    [
                        record["way"],
                        str(record["views"]),
                        f"{record['variance']:.3g}",
                        f"{record['ratio']:.2f} [{record['ratio_low']:.2f}, {record['ratio_high']:.2f}]",
                        f"{record['bias']:+.4f} ± {record['bias_error']:.4f}",
                        f"{record['rmse']:.3g}",
                    ]
                    for record in own
                ],
            ),
            "",
        ]
    lines += ["![Variance and bias](views.png)", ""]
    (folder / "views.md").write_text("\n".join(lines), encoding="utf-8")
    title = "log p of a completion from R views"
    with figure(folder / "views.png", 2, len(subjects), size=(4.4 * len(subjects), 7.5), title=title) as axes:
        for column, subject in enumerate(subjects):
            for number, way in enumerate(WAYS):
                own = [record for record in records if (record["subject"], record["way"]) == (subject, way)]
                across = [record["views"] for record in own]
                for axis, name in ((axes[column], "variance"), (axes[len(subjects) + column], "rmse")):
                    axis.plot(across, [record[name] for record in own], "-o", color=f"C{number}", ms=3, label=way)
                    axis.set(xscale="log", yscale="log", xlabel="views, R", xticks=across, xticklabels=across)
                    axis.set_xticks([], minor=True)
            axes[column].set(title=subject, ylabel="variance, nats²")
            axes[len(subjects) + column].set(ylabel="root mean square error, nats")
        axes[0].legend(frameon=False, fontsize=7)


def _save(path: Path, records: Sequence[Record]) -> None:
    """Write the records of a subject in place of those that the file has of it; subjects in the order of the study."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    every = [record for record in kept if record["subject"] != records[0]["subject"]] + list(records)
    every.sort(key=lambda record: list(subjects()).index(record["subject"]))
    path.write_text("[\n" + ",\n".join(map(json.dumps, every)) + "\n]\n", encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Exit code: 0, or 2 where a package is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=STUDY / "views", help="folder of the record, table and plot")
    parser.add_argument("--subjects", nargs="+", choices=list(subjects()), default=list(subjects()), metavar="NAME")
    parser.add_argument("--report", action="store_true", help="table and plot from the record; measures nothing")
    arguments = parser.parse_args(words)
    path = arguments.results / "records.json"
    try:
        if not arguments.report:
            torch.set_num_threads(1)
            arguments.results.mkdir(parents=True, exist_ok=True)
            for name in arguments.subjects:
                _save(path, measure(subjects()[name]()))
        write(json.loads(path.read_text(encoding="utf-8")), arguments.results)
    except FileNotFoundError:
        print(f"study views: there is no {path}; run the command without --report first", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"study views: {missing_package(error)}", file=sys.stderr)
        return 2
    return 0
