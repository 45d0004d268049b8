"""The picture of docs/view.md and of the README: a screenshot of the page of a run, by headless Chromium.

dmpo train sudoku-tiny log_completions=8 output_dir=runs/picture
python -m benchmarks.runs.page_picture runs/picture         # writes docs/view.png
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.harness.provenance import ROOT
from dmpo.view import write_page

WIDTH, HEIGHT = 1360, 1580  # pixels of the page
COLOURS = 96  # of the picture; it has few, and a palette makes the file small
CLOSED = ("The policy", "The step")  # groups of curves that would push the completions out of the picture


def take_picture(page: Path) -> bytes:
    """The top of the page as PNG: curves, then completions in the last quarter of decoding, and a tooltip."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.locator("html[data-drawn]").wait_for(state="attached")
        for title in CLOSED:
            tab.locator("#curves summary").filter(has_text=title).click()
        group = tab.locator("#completions .group").first
        steps = int(group.locator("input.decoding").get_attribute("max") or 0)
        group.locator("input.decoding").fill(str(3 * steps // 4))
        tab.locator("h1").click()  # takes the focus from the slider
        newest = group.locator(".newest")
        doubts = newest.evaluate_all("spans => spans.map(span => Number(span.style.getPropertyValue('--doubt')))")
        newest.nth(doubts.index(max(doubts))).hover()  # the token of which the policy was least sure
        tab.evaluate("scrollTo(0, 0)")
        tab.wait_for_timeout(1000)
        picture = tab.screenshot()
        browser.close()
    return bytes(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "view.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = take_picture(write_page([options.run], Path(folder) / "view.html"))
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
