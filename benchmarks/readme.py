"""Do README.md and pages of docs/ show the measured figures? Their tables come from the files in results/ alone.

    python -m benchmarks.readme            # which tables differ from the results
    python -m benchmarks.readme --write    # put them into the pages

A table stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.measurements import measurements
from benchmarks.gpu.summary import summary
from benchmarks.harness.provenance import RESULTS, ROOT
from benchmarks.measured import table
from benchmarks.runs import embedded_models
from benchmarks.study.conditions import SEEDS

README, RESULTS_PAGE, CONVERT_PAGE = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "convert.md"


def _embedded_model(name: str, *, seeds: bool = True) -> str:
    results = json.loads((RESULTS / name / "first_light.json").read_text())
    return embedded_models.markdown(results, seeds=seeds)


def _section(path: Path, title: str) -> str:
    """The section of a Markdown file under the heading `## title`."""
    found = re.search(rf"^## {re.escape(title)}\n\n(.*?)(?=^## |\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{path.name} has no section {title!r}")
    return found[1]


def _real() -> str:
    return _section(RESULTS / "real" / "real.md", "In short")


def _starts() -> str:
    """The table of starts.md."""
    lines = (RESULTS / "real" / "starts.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def _resolved(conclusions: str) -> str:
    """The conclusions that the intervals allow, and how many comparisons allow none."""
    bullets = re.findall(r"^- .*$", conclusions, re.MULTILINE)
    found = [line for line in bullets if re.search(r"\]: (higher|lower)", line)]
    rest = f"The other {len(bullets) - len(found)} comparisons are not resolved by {len(SEEDS)} seeds, or not run."
    return "\n".join([conclusions.partition("\n")[0], "", *found, "", rest])


def _gpus() -> str:
    """The measurements on GPUs, if there are any, and then the prediction."""
    return "\n\n".join([*map(summary, measurements(RESULTS)), _section(RESULTS / "prediction.md", "In short")])


TABLES: dict[Path, dict[str, Callable[[], str]]] = {  # of each page
    README: {"sudoku-tiny": lambda: _embedded_model("sudoku-tiny", seeds=False), "real": _real},
    CONVERT_PAGE: {"real": _real, "starts": _starts},
    RESULTS_PAGE: {
        "countdown-tiny": lambda: _embedded_model("countdown-tiny"),
        "prediction": _gpus,
        "bench": table.markdown,
        "plan": lambda: (RESULTS / "plan.md").read_text(),
        "study": lambda: _resolved(_section(RESULTS / "study" / "study.md", "Conclusions")),
    },
}


def insert(text: str, name: str, content: str) -> str:
    """`text` with `content` between the markers of that name.

    Raises:
        ValueError: the text does not have exactly one of each marker, in order.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if (text.count(begin), text.count(end)) != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(f"wanted one {begin.strip()} and then one {end} in the text")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}{content.strip()}\n{end}{after}"


def filled(text: str, page: Path) -> str:
    """The text of a page with every table as the results have it."""
    for name, make in TABLES[page].items():
        text = insert(text, name, make())
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the pages")
    options = parser.parse_args()
    different = []
    for page, tables in TABLES.items():
        text = page.read_text()
        for name, make in tables.items():
            try:
                new_text = insert(text, name, make())
            except (FileNotFoundError, KeyError) as error:
                print(f"{name}: no results to show: {error!r}", file=sys.stderr)
                different.append(name)
                continue
            if new_text != text:
                different.append(name)
            if options.write:
                text = new_text
        if options.write:
            page.write_text(text)
    print(f"differed from the results: {', '.join(different)}" if different else "the pages show what was measured")
    return 0 if options.write else len(different)


if __name__ == "__main__":
    sys.exit(main())
