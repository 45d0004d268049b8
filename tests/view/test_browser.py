"""If these fail, the page loads something, shows text as HTML, or its controls do nothing.

Chromium opens the pages from the disk. The tests are skipped where there is no Chromium.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmpo.storage.lock import FolderLock
from dmpo.view import write_page
from tests.small_runs import lines as lines_of
from tests.view.run_folders import HOSTILE, write_lines, write_results, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
expect = sync_api.expect
PATIENCE = 30_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page in the browser, what it asked the network for, and what its console and its errors said."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.tab = browser.new_page(**options)
        self.tab.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.messages.append(message.text))
        self.tab.on("pageerror", lambda error: self.messages.append(str(error)))
        self.path = path
        self.tab.goto(path.resolve().as_uri())
        self.tab.locator("html[data-drawn]").wait_for(state="attached")

    def __getitem__(self, selector: str) -> Any:
        return self.tab.locator(selector)

    def close(self) -> None:
        """Close the page; it must have loaded nothing but itself, and said nothing."""
        self.tab.close()
        assert {url for url in self.requests if not url.startswith(("data:", "blob:"))} == {
            self.path.resolve().as_uri()
        }
        assert self.messages == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("browser") / "run", steps=20)


@pytest.fixture(scope="module")
def of_run(browser: Any, run: Path) -> Iterator[Opened]:
    opened = Opened(browser, write_page([run]))
    opened.tab.evaluate("rememberState(); window.atFirst = sessionStorage.getItem(STATE_KEY)")
    yield opened
    opened.close()


@pytest.fixture
def page(of_run: Opened) -> Iterator[Opened]:
    """The page of one run as it is at first; what a test chooses is undone after it."""
    yield of_run
    of_run.tab.evaluate("sessionStorage.setItem(STATE_KEY, window.atFirst); restoreState()")
    for order in of_run["select[id$=-order]"].all():  # the list is made anew
        order.dispatch_event("change")
    of_run.tab.evaluate("new Promise((done) => setTimeout(done, 200))")  # a search waits for a pause in typing


def texts(locator: Any) -> list[str]:
    return [str(text) for text in locator.all_text_contents()]


def test_curves_are_drawn_and_filtered(page: Opened) -> None:
    expect(page["#curves figure[data-name=reward] .main-svg"].first).to_be_visible()
    page["#curve-filter"].fill("held-out metric that is not there")
    expect(page["#curves figure:visible"]).to_have_count(0)
    page["#curve-filter"].fill("effective sample")
    expect(page["#curves figure:visible"]).to_have_count(1)
    expect(page["#curves figure:visible strong"]).to_have_text("ess")


def test_a_curve_tells_its_values(page: Opened) -> None:
    chart = page["#curves figure[data-name=reward] .plot"]
    chart.scroll_into_view_if_needed()
    expect(chart.locator(".main-svg").first).to_be_visible()
    box = chart.bounding_box()
    page.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(chart.locator(".hoverlayer .legend").first).to_contain_text(re.compile(r"step \d+"))


def test_smoothing_draws_a_second_curve(page: Opened) -> None:
    lines = page["#curves figure[data-name=reward] .scatterlayer .trace"]
    expect(lines).to_have_count(1)
    page["#smoothing"].fill("0.6")
    expect(lines).to_have_count(2)


def test_the_slider_masks_what_was_unmasked_later(page: Opened, run: Path) -> None:
    line = next(line for line in lines_of(run, "completions.jsonl") if line["step"] == 19)
    group = page["#completions .group"].first
    slider, tokens = group.locator("input.decoding"), group.locator(".card").first.locator(".token")
    assert texts(tokens) == line["tokens"]
    for step in range(4):
        slider.fill(str(step))
        shown = ["░" if order >= step else token for token, order in zip(line["tokens"], line["order"], strict=True)]
        assert texts(tokens) == shown
        expect(group.locator(".card").first.locator(".newest")).to_have_count(line["order"].count(step - 1))
    slider.focus()
    page.tab.keyboard.press("ArrowRight")
    expect(group.locator("output")).to_have_text("all 4 steps")
    assert texts(tokens) == line["tokens"]
    group.locator(".play").click()
    expect(group.locator("output")).to_have_text("step 2 of 4")
    expect(group.locator("output")).to_have_text("all 4 steps")


def test_a_token_tells_its_step_and_its_confidence(page: Opened, run: Path) -> None:
    line = next(line for line in lines_of(run, "completions.jsonl") if line["step"] == 19)
    strip = page["#completions .tokens"].first
    strip.locator(".token").nth(2).hover()
    expect(page["#tooltip"]).to_contain_text("token 3 of 8")
    expect(page["#tooltip"]).to_contain_text(f"unmasked at step {line['order'][2] + 1} of 4")
    expect(page["#tooltip"]).to_contain_text(f"confidence {100 * 2.718281828 ** line['log_probs'][2]:.1f} %")
    page["h1"].hover()
    expect(page["#tooltip"]).to_be_hidden()
    strip.focus()
    page.tab.keyboard.press("ArrowRight")
    expect(page["#tooltip"]).to_contain_text("token 1 of 8")


def test_early_tokens_are_shaded_most(page: Opened, run: Path) -> None:
    line = next(line for line in lines_of(run, "completions.jsonl") if line["step"] == 19)
    tokens = page["#completions .card"].first.locator(".token")
    colours = tokens.evaluate_all("spans => spans.map(span => getComputedStyle(span).backgroundColor)")
    by_step = dict(zip(line["order"], colours, strict=True))
    assert len(set(by_step.values())) == 4
    assert [by_step[step] for step in line["order"]] == colours
    page["#completions-shading"].select_option("none")
    colours = tokens.evaluate_all("spans => spans.map(span => getComputedStyle(span).backgroundColor)")
    assert len(set(colours)) == 1


def test_completions_are_filtered_and_sorted(page: Opened, run: Path) -> None:
    lines = lines_of(run, "completions.jsonl")
    count, cards = page["#completions [role=status]"], page["#completions .card"]
    expect(count).to_have_text("40 completions of 10 prompts")
    page["#completions-step"].select_option("=5")
    expect(count).to_have_text("4 of 40 completions of 1 prompts")
    page["#completions-step"].select_option("")
    page["#completions-least"].fill("0.8")
    high = [line for line in lines if line["reward"] >= 0.8]
    expect(count).to_contain_text(f"{len(high)} of 40 completions")
    page["#completions-order"].select_option("high 0")
    best = max(lines, key=lambda line: line["reward"])
    expect(cards.first.locator(".card-heading")).to_have_text(f"completion {best['row']}")
    page["#completions-least"].fill("")
    page["#completions-search"].fill(best["completion"][:6])
    found = [line for line in lines if best["completion"][:6] in line["completion"]]
    expect(count).to_contain_text(f"{len(found)} of 40 completions")
    page["#completions-search"].fill("no completion has this")
    expect(cards).to_have_count(0)


def test_more_groups_come_when_asked_for(page: Opened) -> None:
    groups = page["#completions .group"]
    expect(groups).to_have_count(6)
    page["#completions .more"].press("Enter")  # a group that is laid out late can move the button away from a pointer
    expect(groups).to_have_count(10)
    expect(page["#completions .more"]).to_be_hidden()


def test_before_and_after(page: Opened) -> None:
    expect(page["#held-out .group h3"].first).to_contain_text("wrong → right")
    page["#held-out-change"].select_option("=right → wrong")
    expect(page["#held-out .verdict"]).to_have_text(["✓ right", "✗ wrong"])


def test_choices_survive_a_reload(browser: Any, run: Path) -> None:
    opened = Opened(browser, write_page([run]))
    opened["#completions-step"].select_option("=5")
    opened["#smoothing"].fill("0.6")
    opened["#curves summary"].first.click()
    opened["#time h2"].scroll_into_view_if_needed()
    place = opened.tab.evaluate("scrollY")
    opened.tab.reload()
    opened["html[data-drawn]"].wait_for(state="attached")
    expect(opened["#completions [role=status]"]).to_have_text("4 of 40 completions of 1 prompts")
    expect(opened["#smoothing"]).to_have_value("0.6")
    expect(opened["#curves details"].first).not_to_have_attribute("open", "")
    opened.tab.wait_for_timeout(300)
    assert abs(opened.tab.evaluate("scrollY") - place) < 60
    opened.close()


def test_hostile_text_is_shown_as_text(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "<b>run & co", steps=1)
    lines = lines_of(run, "completions.jsonl")
    lines[0] |= {"completion": HOSTILE, "prompt": HOSTILE, "tokens": None, "failure": HOSTILE, "rewards": {"<i>": 1.0}}
    lines[1] |= {"tokens": [HOSTILE, "</script>"], "order": [0, 1], "log_probs": [-0.1, -0.2]}
    lines[2] |= {"completion": "x" * 1_000_000, "tokens": None}
    write_lines(run / "completions.jsonl", lines)
    metrics = lines_of(run)
    write_lines(run / "metrics.jsonl", [{**metrics[0], "<img src=x>": 1.5, "reward/<u>": 0.5}])
    opened = Opened(browser, write_page([run]))
    cards = opened["#completions .card"]
    shown = cards.nth(0).locator(".completion").text_content()
    visible = HOSTILE.replace("\u0000", "␀").replace("\u2028", "⟨U+2028⟩").replace("\u202e", "⟨U+202E⟩")
    assert shown == visible
    expect(cards.nth(1).locator(".token")).to_have_count(2)
    assert (cards.nth(1).locator(".token").nth(1).text_content()) == "</script>"
    cards.nth(1).locator(".token").first.hover()
    assert opened["main img, main script, main b:not(dd b), #tooltip img, #tooltip script"].count() == 0
    assert opened.tab.title() == "<b>run & co · dmpo view"
    folded = cards.nth(2)
    expect(folded.locator(".folded")).to_have_count(1)
    assert folded.bounding_box()["height"] < 600
    folded.locator(".unfold").click()
    expect(folded.locator(".folded")).to_have_count(0)
    assert len(folded.locator(".completion").text_content()) < 21_000
    opened.close()


def test_a_script_that_comes_into_the_page_is_not_run(page: Opened) -> None:
    """The policy holds even if text were to become HTML."""
    refused = []
    page.tab.on("console", lambda message: refused.append(message.text))
    page.tab.evaluate(
        "const script = document.createElement('script'); script.textContent = 'document.title = \"owned\"';"
        "document.body.append(script)"
    )
    assert page.tab.title() != "owned"
    page.tab.wait_for_timeout(50)
    page.messages[:] = [text for text in page.messages if "Content Security Policy" not in text]
    assert any("Content Security Policy" in text for text in refused)


def test_runs_are_compared(browser: Any, tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one", alpha=0.04), write_run(tmp_path / "two", seed=1, alpha=0.5)
    opened = Opened(browser, write_page([one, two], tmp_path / "both.html"))
    expect(opened["#overview .run"]).to_have_count(2)
    curves = opened["#curves figure[data-name=reward] .scatterlayer .trace .js-line"]
    expect(curves).to_have_count(2)
    colours = curves.evaluate_all("paths => paths.map(path => getComputedStyle(path).stroke)")
    assert len(set(colours)) == 2
    row = opened["#configuration details"].first.locator("tr").filter(has_text="alpha")
    expect(row.locator("td.value")).to_have_text(["0.04", "0.5"])
    opened["#run-1"].uncheck()
    expect(curves).to_have_count(1)
    opened["#completions-run"].select_option("=two")
    expect(opened["#completions [role=status]"]).to_have_text("12 of 24 completions of 3 prompts")
    opened.close()


def test_a_run_of_before_is_shown_without_shading(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1)
    old = ("step", "row", "prompt", "completion", "reward", "weight")
    lines = [{key: line[key] for key in old} for line in lines_of(run, "completions.jsonl")]
    write_lines(run / "completions.jsonl", lines)
    (run / "held_out.jsonl").unlink()
    opened = Opened(browser, write_page([run]), color_scheme="dark", viewport={"width": 390, "height": 800})
    assert texts(opened["#completions .completion"]) == [line["completion"] for line in lines]
    expect(opened["input.decoding"]).to_have_count(0)
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 390, "a phone scrolls down only"
    background = opened.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background))) < 60, "dark"
    opened.close()


def test_a_run_that_goes_on(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False, max_steps=20)
    lock = FolderLock(run)
    path = write_page([run])
    lock.release()
    opened = Opened(browser, path)
    expect(opened["#top .status"]).to_have_text("still running, as of step 6 of 20")
    write_page([run])
    opened["#top .reload button"].click()
    expect(opened["#top .status"]).to_have_text("not finished: stopped after step 6 of 20")
    opened.tab.locator("html[data-drawn]").wait_for(state="attached")
    opened.close()


def test_results_of_an_evaluation(browser: Any, tmp_path: Path) -> None:
    path = write_results(tmp_path / "results.jsonl", samples=2, decoders=("topk", "dual_cache"))
    opened = Opened(browser, write_page([path]))
    expect(opened["#accuracies tbody tr"]).to_have_count(2)
    expect(opened["#accuracy-plot .scatterlayer .point"]).to_have_count(4)
    expect(opened["#completions .group h3"].first).to_have_text("sudoku4 example 0")
    opened["#completions-verdict"].select_option("=right")
    opened["#completions-decoder"].select_option("=topk")
    expect(opened["#completions [role=status]"]).to_have_text("9 of 24 completions of 5 prompts")
    opened.close()
