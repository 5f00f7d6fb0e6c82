"""The page of `llmx data inspect` in a browser: Chromium through playwright (`pip install playwright`)."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two sources with long names, Chinese, and samples that are long or have no blank."""
    from llmx.data.lengths import Lengths
    from llmx.inspect import Corpus, write_page
    from llmx.inspect.figures import Sample, SourceFigures, Span

    draw = random.Random(0)
    sources = []
    for label, mean in (("对话数据", 5.0), ("a_source_with_a_rather_long_name_and_no_blank", 7.0)):
        lengths = [round(draw.lognormvariate(mean, 0.9)) + 3 for _ in range(5_000)]
        facts = {"rows": 900, "positions": 921_600, "padding": 40_000, "documents": 4_800, "truncated_documents": 70}
        gone = {"truncated_tokens": 90_000, "left_out_documents": 12, "left_out_tokens": 4_000}
        sources.append(
            SourceFigures(
                label=label,
                weight=mean,
                documents=5_000,
                held_out_documents=200,
                chats=4_000,
                duplicates=70,
                characters=Lengths.of([4 * each for each in lengths]),
                tokens=Lengths.of(lengths),
                held_out_tokens=9_000,
                labels=sum(lengths),
                predicted=sum(lengths) // 2,
                scripts={"Chinese": 50, "Latin": 40, "digits": 5, "other": 5},
                rows={**facts, **gone},
            )
        )
    spans = [
        Span("<|im_start|>", True, False, False),
        Span("user\n你好" + "无空格" * 200, False, False, False),
        Span("<|im_end|>", True, False, False),
        Span("answer " * 300, False, True, False),
        Span("x" * 400, False, True, True),
        Span("<|im_end|>", True, True, True),
    ]
    samples = [Sample("corpus/" + "long" * 40 + ".jsonl:17", "对话数据", 2_000, 900, 1_500, spans)] * 2
    corpus = Corpus("对话数据 + other", 1_024, "auto", ["tokenizer hf", "template qwen3"], sources, None, samples)
    return write_page(corpus, tmp_path_factory.mktemp("page") / "corpus.html").as_uri()


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_hangs_over_the_edge(page: Any, width: int) -> None:
    """On a phone and on a desk the page is as wide as the window; only tables scroll, by themselves."""
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for label in page.locator(".frame .x").all():
        boxes = [each.bounding_box() for each in label.locator("text").all()]
        assert len(boxes) >= 3
        assert all(a["x"] + a["width"] < b["x"] for a, b in itertools.pairwise(boxes))


def test_light_and_dark(page: Any) -> None:
    """By the system's wish and by the button against it; trained text has contrast in both."""
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(247, 246, 243)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    colours = "each => [getComputedStyle(each).color, getComputedStyle(each).backgroundColor]"
    assert page.locator("article .t").first.evaluate(colours) == ["rgb(121, 217, 179)", "rgb(20, 53, 42)"]
    page.click("#theme")
    assert page.locator("article .t").first.evaluate(colours) == ["rgb(11, 107, 77)", "rgb(224, 243, 234)"]
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate(ground) == "rgb(18, 20, 23)"


def test_bars_are_seen(page: Any) -> None:
    """The highest bar nearly fills its chart, bars stand side by side, and each says what it is."""
    plot = page.locator(".plot").first
    box = plot.bounding_box()
    bars = [group.locator("rect:not(.hit)").all() for group in plot.locator("g").all()]
    assert len(bars) > 15
    tops = [min(each.bounding_box()["y"] for each in group) - box["y"] for group in bars]
    assert 0.05 < min(tops) / box["height"] < 0.15
    left = [group[0].bounding_box() for group in bars]
    assert all(a["x"] + a["width"] <= b["x"] + 0.5 for a, b in itertools.pairwise(left))
    assert "tokens: " in plot.locator("title").first.text_content()
    shares = page.locator(".share svg").first.locator("rect").all()
    width = page.locator(".share svg").first.bounding_box()["width"]
    assert sum(each.bounding_box()["width"] for each in shares) == pytest.approx(width, rel=0.01)


def test_without_a_script_nothing_is_missing(browser: Any, address: str) -> None:
    """All but the button for the theme is there."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator("#theme").is_visible()
    assert page.locator(".bars g").count() > 30
    assert page.locator("article").count() == 2
    context.close()


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
    assert page.title() == "对话数据 + other · llmx data"
    assert sum("Content Security Policy" in text for text in refused) >= 2
    context.close()
