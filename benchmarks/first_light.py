"""Does `make train` improve an embedded model on held-out puzzles? Prints the table of README.md and docs/results.md.

python -m benchmarks.first_light --seeds 0 1 2
python -m benchmarks.first_light --config countdown-tiny --seeds 0 1 2
"""

from __future__ import annotations

import argparse

from benchmarks.runs.embedded_models import DEFAULT, markdown, measure
from dmpo.models.files import embedded_models


def override(word: str) -> str:
    """A config key and its value; a config's name needs --config."""
    if "=" not in word:
        raise argparse.ArgumentTypeError(f"wanted key=value, got {word!r}; a config is chosen by --config {word}")
    return word


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=DEFAULT, choices=embedded_models(), help=f"default {DEFAULT}")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side, default 1; their seconds are no figures"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "overrides",
        nargs="*",
        type=override,
        metavar="key=value",
        help="config keys, for a trial; then nothing is written",
    )
    options = parser.parse_args(arguments)
    print(markdown(measure(options.config, options.seeds, options.jobs, options.overrides)))


if __name__ == "__main__":
    main()
