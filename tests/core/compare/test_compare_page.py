"""The page of `llmx compare` in a browser: rating by keys, blind, kept over a reload, saved and merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

MODELS = ["基础模型", "a-tuned-model-with-a-rather-long-name_and_no_blank", "remote <b>"]
SCRIPT = "<script>document.title = 'x'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three models and six questions, two answers each, with errors, markup, long words and Chinese."""
    from llmx.compare.config import structured
    from llmx.compare.page import PAGE, write_page
    from llmx.compare.questions import question_of
    from llmx.compare.reply import Reply, Row
    from llmx.compare.results import results_of, write_asked
    from llmx.compare.work import ANSWERS, Plan

    out = tmp_path_factory.mktemp("page") / "compared"
    out.mkdir()
    models = [{"name": name, "url": "http://127.0.0.1:9/v1", "model": "m"} for name in MODELS]
    asked = [
        {"question": "What is 2 + 2?", "expect": {"contains": "4"}, "tags": ["sum"], "id": "two"},
        {"question": "中医堂的营业时间是几点？", "answer": "早上九点到晚上八点。", "tags": ["中文"]},
        {"question": "Markup: " + SCRIPT, "expect": {"excludes": "script", "max_chars": 900}},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
                      {"role": "user", "content": "Who are you?"}], "tags": ["chat"]},
        {"question": "Wide: " + "无空格" * 60, "tags": ["中文"]},
        {"question": "Say the alphabet.", "expect": {"min_chars": 26}, "tags": ["a tag of several words"]},
    ]  # fmt: skip
    texts = [
        ["It is 4.", "5", "4"],
        ["我们早上九点开门，晚上八点关门。欢迎您来就诊！", "早上九点。", ""],
        ["No markup here.", SCRIPT, "Plain **text** with `code`."],
        ["I am a model.", "I am a model.", "I am a model."],
        ["x" * 300, "短", "A sentence. " * 60],
        ["abcdefghijklmnopqrstuvwxyz", "abc", "a b c d e f g h i j k l m n o p q r s t u v w x y z"],
    ]
    questions = [question_of(json.dumps(each), str(number))[0] for number, each in enumerate(asked, 1)]
    plan = Plan(structured({"model": models, "generate": {"temperature": 0.7}}, "models.toml"), questions, 2, out)
    with (out / ANSWERS).open("w") as file:
        for model, name in enumerate(MODELS):
            for number, each in enumerate(plan.wanted[name]):
                text = texts[number % 6][model] + " again" * (number == 9)
                reply = Reply(text, 0.5 + model + number / 10, 0.1 + model / 10, 4 + len(text) // 4, "stop")
                if model == 2 and number == 4:
                    reply = Reply(error="http://127.0.0.1:9/v1: cannot be reached: Connection refused", tries=4)
                file.write(Row(each.key, name, each.question.id, each.repeat, 1e9 + number, reply).to_json() + "\n")
    write_asked(plan, None)
    write_page(results_of(plan), out / PAGE)
    return out


@pytest.fixture(scope="module")
def address(folder: Path) -> str:
    """Where the page is."""
    return (folder / "compare.html").as_uri()


def rated(page: Any) -> dict[str, int]:
    """Return what the page shows as rated, by key."""
    marks = page.locator(".answer[data-key]").evaluate_all(
        "all => all.map(card => [card.dataset.key, card.querySelector('[aria-pressed=true]')?.dataset.score])"
    )
    return {key: int(score) for key, score in marks if score}


def current(page: Any) -> str:
    """Return the key of the answer in the frame."""
    return str(page.locator(".answer.current").get_attribute("data-key"))


def order(page: Any) -> list[list[str]]:
    """Return the models of the answers as they stand, question by question."""
    return page.locator(".question").evaluate_all(
        "all => all.map(each => [...each.querySelectorAll('.answer')].map(card => card.dataset.model))"
    )


def test_rating_by_keys_stays_over_a_reload(page: Any) -> None:
    """A digit rates the answer in the frame and goes on, 0 takes it back, arrows move; a reload finds all again."""
    page.keyboard.press("3")  # shows the frame, rates nothing
    assert rated(page) == {}
    first = current(page)
    page.keyboard.press("4")
    assert rated(page) == {first: 4}
    second = current(page)
    assert second != first
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    assert current(page) == second
    assert page.locator("#progress").inner_text() == "2 of 17 rated"  # one of 18 is an error
    page.reload()
    assert rated(page) == {first: 4, second: 2}
    assert page.locator("td.yours").all_inner_texts() == ["4.00 of 1", "2.00 of 1", "–"]
    page.locator(f"[data-key='{first}'] [data-score='4']").click()  # again: taken back
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    assert rated(page) == {}


def test_blind_hides_and_shuffles(page: Any) -> None:
    """No name, figure, colour or note tells whose an answer is; the order stays over a reload; names come back."""
    page.click("#blind")
    shown = page.locator("main").inner_text()
    assert not any(name in shown for name in MODELS)
    assert "rules" not in shown.lower().replace("key", "")
    assert " s, first" not in shown
    assert "127.0.0.1" not in shown  # of an answer that did not come
    assert page.locator(".key:visible").count() == 0
    whole = [each for each in order(page) if len(each) == 3]
    assert sorted(whole[0]) == ["0", "1", "2"]
    assert page.locator(".question").first.locator(".who").all_inner_texts() == ["Answer A", "Answer B", "Answer C"]
    before = order(page)
    page.keyboard.press("5")
    page.keyboard.press("5")
    blindly = rated(page)
    page.reload()
    assert order(page) == before
    assert rated(page) == blindly
    page.click("#blind")
    assert order(page) == [["0", "1", "2"]] * 6
    assert page.locator(".question").first.locator(".who").all_inner_texts() == MODELS
    assert rated(page) == blindly


def test_the_shuffle_is_another_in_each_browser(browser: Any, address: str) -> None:
    """Over twelve browsers every model stands first at least once."""
    seen = set()
    for _ in range(12):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.click("#blind")
        seen.add(order(page)[0][0])
        context.close()
    assert seen == {"0", "1", "2"}


def test_filters_and_orders(page: Any) -> None:
    """By tag, by scores that differ, by what is not rated yet, and the least alike or the widest gap first."""
    shown = ".question:not([hidden])"
    ids = "all => all.map(each => each.dataset.id)"
    assert page.locator(shown).count() == 6
    page.select_option("#tag", "中文")
    assert page.locator(shown).evaluate_all(ids) == ["2", "5"]
    page.select_option("#tag", "")
    page.check("#differ")
    assert page.locator(shown).evaluate_all(ids) == ["two", "3", "6"]
    page.uncheck("#differ")
    page.select_option("#order", "alike")
    assert page.locator(shown).evaluate_all(ids)[-1] == "4"
    page.select_option("#order", "gap")
    assert page.locator(shown).evaluate_all(ids)[0] == "two"
    page.select_option("#order", "asked")
    page.locator("h1").click()  # away from the list, which takes keys for itself
    for _ in range(4):
        page.keyboard.press("5")
    page.check("#unrated")
    assert "two" not in page.locator(shown).evaluate_all(ids)
    page.select_option("#tag", "sum")
    assert page.locator("#none").is_visible()


def test_saved_ratings_are_merged(browser: Any, address: str, folder: Path, tmp_path: Path) -> None:
    """What the page saves, the command merges: its means are those of the page, and a second rater's count too."""
    from llmx.cli import cli

    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto(address)
    for score in "1" + "543512345":
        page.keyboard.press(score)
    given = rated(page)
    means = page.locator("td.yours").all_inner_texts()
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "ratings.json"
    download.value.save_as(tmp_path / "ratings.json")
    context.close()
    saved = json.loads((tmp_path / "ratings.json").read_text())
    assert {each["key"]: each["score"] for each in saved["ratings"]} == given
    assert len(given) == 9
    cli.main(["compare", str(folder), "--ratings", str(tmp_path / "ratings.json")], standalone_mode=False)
    summary = json.loads((folder / "summary.json").read_text())
    people = [each["scores"]["people"]["mean"] for each in summary["models"]]
    assert [f"{mean:.2f}" for mean in people] == [text.split()[0] for text in means]
    other = {**saved, "ratings": [{**each, "score": 1} for each in saved["ratings"]]}
    (tmp_path / "second.json").write_text(json.dumps(other))
    cli.main(["compare", str(folder), "--ratings", str(tmp_path / "second.json")], standalone_mode=False)
    summary = json.loads((folder / "summary.json").read_text())
    assert [each["scores"]["people"]["mean"] for each in summary["models"]] == pytest.approx(
        [(mean + 1) / 2 for mean in people]
    )
    assert summary["raters"] == {"ratings": 9, "second": 9}


def test_what_models_say_is_text(page: Any) -> None:
    """Markup in questions, answers and names is shown as it stands; nothing of it runs, loads or is reported."""
    assert SCRIPT in page.locator(".question").nth(2).inner_text()
    assert page.title() == "3 models · llmx compare"
    assert page.locator(".answer img, .answer script").count() == 0


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_hangs_over_the_edge(page: Any, width: int) -> None:
    """On a phone and on a desk the page is as wide as the window; only the table scrolls, by itself."""
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.click("#blind")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_scripts_all_answers_are_there(browser: Any, address: str) -> None:
    """The page is read without its script too; what only a script can do is not shown."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".answer:visible").count() == 18
    assert page.locator(".script:visible").count() == 0
    context.close()


def test_a_browser_that_keeps_nothing_says_so(browser: Any, address: str) -> None:
    """Without storage ratings still work while the page is open, and a line says that they are lost after."""
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied') } })")
    page = context.new_page()
    page.goto(address)
    page.keyboard.press("1")
    page.keyboard.press("5")
    assert len(rated(page)) == 1
    assert page.locator("#unkept").is_visible()
    context.close()


@pytest.fixture
def shots(browser: Any, address: str) -> Iterator[Any]:
    """A page of any width and colour."""
    contexts = []

    def open_page(width: int, colour: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colour))
        page = contexts[-1].new_page()
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_light_and_dark(shots: Any) -> None:
    """By the system's wish; the pressed mark can be told from the others in both."""
    for colour, ground in (("light", "rgb(247, 246, 243)"), ("dark", "rgb(18, 20, 23)")):
        page = shots(1280, colour)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
        page.keyboard.press("1")
        page.keyboard.press("2")
        looks = (
            page.locator(".marks")
            .first.locator("button")
            .evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
        )
        assert looks.count(looks[0]) == 4
        assert looks[1] != looks[0]
