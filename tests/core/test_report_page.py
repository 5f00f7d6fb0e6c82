"""The page of `llmx report` in a browser: Chromium through playwright (`pip install playwright`)."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
RECIPE = """
[optimizer]
lr = {lr}

[[logger]]
name = "jsonl"

[train]
steps = {steps}
"""


def write_run(folder: Path, steps: int, tokens_each: int, loss: float) -> None:
    """Write a run folder of noise that needs thinning, with spikes and a gap."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE.format(lr=loss / 1000, steps=steps))
    (folder / "lock.json").write_text('{"python": "3.11", "torch": "2.7", "plugins": {}}')
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            value = None if step % 1_000 == 7 else loss + 5 / step + step * 7_919 % 13 / 20 + 9 * (step == 1_500)
            row = {"step": step, "tokens": step * tokens_each, "train/loss": value, "lr": 1e-3 * (1 - step / steps / 2)}
            file.write(json.dumps({**row, "grad_norm": 1.0, "memory_bytes": 2**31}) + "\n")
            if step % 500 == 0:
                file.write(json.dumps({"step": step, "tokens": step * tokens_each, "val/loss": loss + 5 / step}) + "\n")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two runs: 3,000 steps, and 2,500 steps of half as many tokens."""
    from llmx.report import write_report

    folder = tmp_path_factory.mktemp("page")
    write_run(folder / "一号", 3_000, 1_024, 2.0)
    write_run(folder / "two", 2_500, 512, 3.0)
    return write_report([folder / "一号", folder / "two"], folder / "report.html").as_uri()


def drawn(page: Any) -> dict[str, list[str]]:
    """Return what every chart shows: its paths and its labels."""
    paths = page.eval_on_selector_all(".plot .line path", "all => all.map(path => path.getAttribute('d'))")
    return {"paths": paths, "labels": page.locator(".frame text").all_text_contents()}


def heights(page: Any, line: int) -> list[float]:
    """Return the heights of the points of a line of the loss chart, 0 at the top."""
    path = page.locator(f"[data-chart='0'] [data-line='{line}'] .main").get_attribute("d")
    return [float(y) for y in re.findall(r"[ML][\d.-]+ ([\d.-]+)", path)]


def test_the_script_draws_what_the_page_came_with(page: Any, browser: Any, address: str) -> None:
    """Steps, linear, not smoothed: the same curves and labels, to a thousandth of a chart."""
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(address)
    assert not still.locator("#log").is_visible()
    before, after = drawn(still), drawn(page)
    assert len(before["paths"]) == 2 * 5 * 3
    assert sum(path.count("L") for path in before["paths"]) > 5_000
    assert before["labels"] == after["labels"]
    for one, other in zip(before["paths"], after["paths"], strict=True):
        assert NUMBER.sub("", one) == NUMBER.sub("", other)
        pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
        assert all(abs(float(a) - float(b)) <= 1 for a, b in pairs)
    context.close()


def test_the_switches(page: Any) -> None:
    """Runs and kinds can be hidden, the axis changed, the loss put on a logarithmic scale, curves smoothed."""
    first = drawn(page)
    page.click("[data-axis=t]")
    assert page.locator("#axis-name").inner_text() == "tokens"
    assert drawn(page)["labels"] != first["labels"]
    ends = [
        float(re.findall(r"L([\d.]+) [\d.]+", page.locator(f"[data-line='{line}'] .main").first.get_attribute("d"))[-1])
        for line in (1, 3)
    ]
    assert ends == pytest.approx([1000, 1000 * 2_500 * 512 / (3_000 * 1_024)], abs=0.2)
    page.click("[data-axis=x]")
    assert drawn(page) == first

    before = heights(page, 0)
    page.check("#log")
    assert heights(page, 0) != before
    page.check("#crop")
    assert page.locator(".plot").first.evaluate("plot => getComputedStyle(plot.firstElementChild).overflow") == "hidden"
    page.uncheck("#crop")
    page.uncheck("#log")
    page.locator("#smooth").fill("40")
    assert page.locator("#smooth-text").inner_text() == "over 96 steps"
    jumps = [max(abs(a - b) for a, b in itertools.pairwise(h)) for h in (before[20:], heights(page, 0)[20:])]
    assert jumps[1] < jumps[0] / 3
    page.locator("#smooth").fill("0")
    assert drawn(page) == first

    page.click("[data-run='0']")
    assert page.locator("[data-run='0']").get_attribute("aria-pressed") == "false"
    hidden = page.locator(".line.c0").evaluate_all("all => all.map(one => getComputedStyle(one).display)")
    assert hidden == ["none"] * 5
    page.click("[data-kind='held-out']")
    assert page.locator("[data-chart='0'] .line:visible").count() == 1
    page.click("[data-run='0']")
    page.click("[data-kind='held-out']")
    assert drawn(page) == first


def test_values_are_read_off(page: Any) -> None:
    """Under the pointer or with the arrow keys: each visible line's own value at its nearest point, in each chart."""
    plot = page.locator(".plot").first
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] / 3, "y": 100})
    text = plot.locator(".tip").inner_text()
    assert text.startswith("step 1,000\n")  # not the tokens: the runs differ in them
    assert "一号 train" in text
    assert "two held-out" in text
    assert re.search(r"2\.005\s+at 1000", text)
    assert page.locator(".hair[d^=M]").count() == 4
    page.mouse.move(5, 5)
    assert not plot.locator(".tip").is_visible()
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert plot.locator(".tip").inner_text().startswith("about step 970")  # a hundredth of the way to the left
    page.keyboard.press("Escape")
    assert not plot.locator(".tip").is_visible()


def test_light_and_dark(page: Any) -> None:
    """By the system's wish, by the button against it, and on paper always light."""
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(247, 246, 243)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    page.click("#theme")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(247, 246, 243)"
    page.reload()
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_hangs_over_the_edge(page: Any, width: int) -> None:
    """On a phone and on a desk the page is as wide as the window; only tables scroll, by themselves."""
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_an_alien_script_does_not_run(browser: Any, address: str) -> None:
    """The policy stops a script that was put into the file, and an attribute's."""
    context = browser.new_context()
    page, refused = context.new_page(), []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(address)
    html = page.content().replace("</main>", "</main><script>document.title='x'</script><img src=x onerror=alert(1)>")
    path = Path(address.removeprefix("file://")).with_name("altered.html")
    path.write_text(html, encoding="utf-8")
    page.goto(path.as_uri())
    assert page.title() == "2 runs · llmx report"
    assert sum("Content Security Policy" in text for text in refused) >= 2
    context.close()
