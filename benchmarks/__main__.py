"""Every benchmark on the device at hand: `python -m benchmarks`, or `make bench`, about 25 minutes on two quiet cores.

    python -m benchmarks [--device cpu|cuda] [--threads 2] [--only kernels decoders …] [--quick] [--output FOLDER]

Each part is a file that begins with a question. It writes NAME.json, NAME.md and NAME.png to
benchmarks/results/<device>/ as soon as it has finished, so `--only` repeats or completes a set. The traffic of the
kernels and the memory of LLaDA-8B need no device; their files are in benchmarks/results/ itself. At the end table.md is
made from all these files, and `python -m benchmarks.readme --write` puts it into the pages. If a part fails, an error
says so and the other parts run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from torch import cuda

from benchmarks.harness.extras import missing_package
from benchmarks.harness.provenance import RESULTS, ROOT
from benchmarks.harness.setting import Load, Setting, header
from benchmarks.measured import table

PARTS = {
    "kernels": "measured.kernels",
    "step": "measured.training_step",
    "scaling": "measured.scaling",
    "remask": "measured.remask",
    "rl": "measured.rl_step",
    "decoders": "measured.decoders",
    "report": "counted.report",
    "plan": "memory.llada_8b",
}
FILES = {"rl": "rl_step", "report": "kernel_report"}  # stems of files that do not have the part's name
DEVICE_FREE = ("report", "plan")
TRIAL = ROOT / "build" / "benchmarks-quick"


def run_part(name: str, setting: Setting, output: Path, command: str) -> dict[str, Any]:
    """Measure one part and write its files; the results."""
    module, load, begun = importlib.import_module(f"benchmarks.{PARTS[name]}"), Load(), time.perf_counter()
    measured = module.measure(setting)
    if setting.device == "cuda":
        cuda.empty_cache()  # later parts run in processes of their own
    results = {"header": header(setting, command, load), "seconds": time.perf_counter() - begun, **measured}
    folder = output if name in DEVICE_FREE else output / setting.slug
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / FILES.get(name, name)
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    stem.with_suffix(".md").write_text(module.markdown(results))
    if hasattr(module, "plot"):
        module.plot(results, stem.with_suffix(".png"))
    print(f"{module.markdown(results)}\n{name}: {results['seconds']:.0f} s, {stem}.*\n", flush=True)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help=f"tiny shapes, not figures; writes to {TRIAL.name}/")
    parser.add_argument("--output", type=Path, help="folder in place of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.device == "cuda" and not cuda.is_available():
        parser.error("--device cuda: no CUDA device is visible")
    setting = Setting(options.device, options.threads, options.quick)
    setting.begin()
    output = options.output or (TRIAL if options.quick else RESULTS)
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.only:
        try:
            run_part(name, setting, output, command)
        except ModuleNotFoundError as error:
            print(f"{name}: {missing_package(error)}", file=sys.stderr)
            failed.append(name)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if (output / setting.slug).is_dir():
        (output / setting.slug / "table.md").write_text(table.of_device(output / setting.slug))
    print(table.markdown(output))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
