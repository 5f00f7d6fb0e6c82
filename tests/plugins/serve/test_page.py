"""The chat page in a browser: Chromium through playwright (`pip install playwright`), answers of a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[3] / "plugins/llmx_serve/page"
BASE = Path(__file__).parents[3] / "core/llmx/page/base.css"
LAST = ".message.assistant >> nth=-1"
OPEN = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", "locale": "en-US"}
MARKDOWN = """async (text) => {
  const { blocksOf, element } = await import("/page/markdown.js");
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const write = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
    if (node.className === "code") return write(node.querySelector("pre"));
    const inner = [...node.childNodes].map(write).join("");
    if (node.className === "scroll" || node.tagName === "SPAN") return inner;
    const name = node.tagName.toLowerCase().replace(/^h[3-6]$/, "h").replace("del", "s");
    const address = node.getAttribute("href");
    return `<${name}${address ? " " + address : ""}>${inner}</${name}>`;
  };
  return blocksOf(text.split("\\n")).map(element).map(write).join("");
}"""
GROWN = """async (text) => {
  const { LiveMarkdown } = await import("/page/live.js");
  const whole = document.createElement("div"), grown = document.createElement("div");
  new LiveMarkdown(whole).update(text, true);
  const live = new LiveMarkdown(grown);
  for (let end = 1; end <= text.length; end += 1 + end % 3) live.update(text.slice(0, end), false);
  live.update(text, true);
  return [whole.innerHTML, grown.innerHTML];
}"""
COST = """async (text) => {
  const { LiveMarkdown } = await import("/page/live.js");
  const root = document.createElement("div"), begun = performance.now();
  new LiveMarkdown(root).update(text, true);
  const depth = (node) => 1 + Math.max(0, ...[...node.children].map(depth));
  return [performance.now() - begun, depth(root)];
}"""


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Open the page of a server; nothing is reported but what a test expects, nothing comes from elsewhere."""
    contexts, faults, strange = [], [], []

    def go(url: str, expected: str = "$^", ready: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{**OPEN, **options})
        contexts.append(context)
        page = context.new_page()

        def told(text: str) -> None:
            if not re.search(expected, text):
                faults.append(text)

        page.on("console", lambda message: told(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: strange.append(request.url) if not request.url.startswith(url) else None)
        page.goto(url)
        if ready:
            page.wait_for_selector("#model option", state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert faults == []
    assert strange == [] or all(address.startswith("data:image/svg") for address in strange)


@pytest.fixture
def page(visit: Visit, server: Any) -> Any:
    """The page of the server of "chats" and "plain", as it is at first."""
    return visit(server.url)


def setting(page: Any, **values: object) -> None:
    """Set what requests carry."""
    page.click("#settings-open")
    for name, value in values.items():
        page.fill(f"#settings [name={name}]", str(value))
    page.keyboard.press("Escape")


def ended(page: Any, answers: int) -> str:
    """Wait until so many answers are shown and none is being made; return the last one's text."""
    page.wait_for_selector("#messages:not(:has([aria-busy=true])):has(.assistant) >> nth=0", timeout=30_000)
    assert page.locator(".message.assistant").count() == answers
    return str(page.locator(f"{LAST} >> .body").inner_text())


def say(page: Any, text: str, answers: int) -> str:
    """Send a message and return the answer's text."""
    page.fill("#input", text)
    page.keyboard.press("Enter")
    return ended(page, answers)


def answered_with(page: Any, text: str, **delta: Any) -> None:
    """Have the next answers say this: what a tiny model cannot say."""
    events = [{"delta": {"role": "assistant", "content": ""}}, {"delta": {**delta, "content": text}}]
    chunks = [{"choices": [{"index": 0, **each}]} for each in [*events, {"delta": {}, "finish_reason": "stop"}]]
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def test_a_conversation(page: Any, server: Any) -> None:
    """Each answer is what the API says to the same messages, with its tokens counted; a new load shows them again."""
    setting(page, temperature=0, system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}]
    with server.client() as client:
        for number, text in enumerate(["Who is Ada?", "Sure?"], 1):
            messages.append({"role": "user", "content": text})
            body = {"model": "chats", "messages": messages, "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            content = answer["choices"][0]["message"]["content"]
            assert content.strip()
            assert say(page, text, number) == " ".join(content.split())
            figures = page.locator(f"{LAST} >> .figures").inner_text()
            assert f"{answer['usage']['completion_tokens']} tokens" in figures
            # no speed is told of what came at once
            speed = re.search(r"(?:([\d.,]+) tokens/s\s+)?first after \d+\.\d\d s", figures)
            assert speed
            assert speed[1] is None or float(speed[1].replace(",", "")) < 20_000
            messages.append({"role": "assistant", "content": content})
    shown = page.locator(".message .body").all_inner_texts()
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.locator(".message .body").all_inner_texts() == shown
    assert page.locator("#chats .pick").all_inner_texts() == ["Who is Ada?"]


def test_what_comes_in_one_piece_has_no_speed(page: Any) -> None:
    """The moment between its first and its last event says nothing of the model's."""
    answered_with(page, "one two three")
    say(page, "Count.", 1)
    figures = page.locator(f"{LAST} >> .figures").inner_text()
    assert "first after" in figures
    assert "tokens/s" not in figures


def test_an_answer_grows_and_is_stopped(page: Any, server: Any) -> None:
    """Text appears before the end; Esc ends it at once and frees the slot; what was said is kept."""
    page.select_option("#model", "plain")
    setting(page, max_tokens=480, temperature=0)
    page.fill("#input", "Bo is")
    page.evaluate(
        """() => {
          window.lengths = new Set();
          const length = () => document.querySelector(".assistant .body")?.textContent.length ?? 0;
          new MutationObserver(() => window.lengths.add(length()))
            .observe(document.querySelector("#messages"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    before = server.figure("llmx_generated_tokens_total")
    page.click("#send")
    page.wait_for_selector(".assistant .body:not(:empty)")
    page.wait_for_timeout(200)
    assert page.locator("#send").get_attribute("aria-label") == "Stop (Esc)"
    page.keyboard.press("Escape")
    text = ended(page, 1)
    assert "You stopped this answer." in page.locator(".trouble").inner_text()
    server.wait_idle(2)
    assert server.figure("llmx_generated_tokens_total") - before < 470
    assert len(page.evaluate("[...window.lengths]")) > 3
    page.reload()
    assert page.locator(f"{LAST} >> .body").inner_text() == text
    assert page.locator("#send").get_attribute("aria-label") == "Send"


def test_other_answers_stay_within_reach(page: Any) -> None:
    """Another answer stands beside the first, each with what followed it; a new load shows the one that was chosen."""
    setting(page, seed=1, temperature=2)
    first = say(page, "Who is Bo?", 1)
    say(page, "Sure?", 2)
    setting(page, seed=2)
    page.locator(".message.assistant >> nth=0").hover()
    page.locator(".message.assistant >> nth=0 >> .again").click()
    second = ended(page, 1)
    assert second != first
    assert page.locator(".of").inner_text() == "2/2"
    page.click(".before")
    assert page.locator(".assistant >> nth=0 >> .body").inner_text() == first
    assert page.locator(".message").count() == 4
    assert page.locator(".before").is_disabled()
    page.reload()
    assert page.locator(".of").inner_text() == "1/2"
    page.click(".after")
    assert page.locator(".assistant .body").all_inner_texts() == [second]


def test_a_message_is_edited(page: Any) -> None:
    """The edited message begins a branch of its own; the one before can be gone back to."""
    setting(page, temperature=0)
    ada = say(page, "Who is Ada?", 1)
    page.locator(".message.user").hover()
    page.click(".user .edit")
    page.fill(".editor textarea", "Who is Gus?")
    page.keyboard.press("Enter")
    gus = ended(page, 1)
    assert page.locator(".user .body").all_inner_texts() == ["Who is Gus?"]
    assert gus != ada
    page.click(".user .before")
    assert page.locator(".message .body").all_inner_texts() == ["Who is Ada?", ada]


def test_chats_are_kept_and_deleted(page: Any) -> None:
    """Every chat can be opened again; one that was deleted comes back by Undo, and else is gone for good."""
    say(page, "Who is Ada?", 1)
    page.click("#new-chat")
    assert page.locator(".message").count() == 0
    say(page, "Who is Bo?", 1)
    titles = page.locator("#chats .pick")
    assert titles.all_inner_texts() == ["Who is Bo?", "Who is Ada?"]
    page.click("#chats .pick >> nth=1")
    assert page.locator(".user .body").inner_text() == "Who is Ada?"
    for undone in (True, False):
        page.locator("#chats li").filter(has_text="Who is Ada?").hover()
        page.locator("#chats li").filter(has_text="Who is Ada?").locator(".bin").click()
        assert titles.all_inner_texts() == ["Who is Bo?"]
        if undone:
            page.click("#toast button")
            assert sorted(titles.all_inner_texts()) == ["Who is Ada?", "Who is Bo?"]
            assert page.locator(".user .body").inner_text() == "Who is Ada?"
    page.reload()
    assert titles.all_inner_texts() == ["Who is Bo?"]


def test_plain_text_is_continued(page: Any, server: Any) -> None:
    """A model without a template continues text, says so, and goes on from its own end."""
    page.select_option("#model", "plain")
    assert "was trained on plain text" in page.locator("#plain").inner_text()
    setting(page, temperature=0, max_tokens=12)
    first = page.locator(".assistant .body >> nth=0")
    say(page, "Bo is here, ", 1)
    with page.expect_request("**/v1/completions") as asked:
        page.get_by_role("button", name="Continue").click()
    ended(page, 2)
    assert asked.value.post_data_json["prompt"] == "Bo is here, " + first.text_content()
    body = {"model": "plain", "prompt": "Bo is here, ", "temperature": 0, "max_tokens": 24}
    with server.client() as client:
        text = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"]
    assert first.text_content() + page.locator(f"{LAST} >> .body").text_content() == text


def test_light_and_dark(page: Any) -> None:
    """By the system's wish, or by the switch against it, which a new load keeps."""
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(247, 246, 243)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    page.reload()
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    page.click("#theme")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(18, 20, 23)"


def test_the_colours_are_those_of_all_pages() -> None:
    """Every colour and type that this page names has the value that the other pages give it."""
    own, shared = (re.findall(r":root[^{]*{([^}]*)}", path.read_text())[:3] for path in (PAGE / "page.css", BASE))
    for mine, theirs in zip(own, shared, strict=True):
        values = [dict(re.findall(r"(--[\w-]+):\s*([^;]+);", part)) for part in (mine, theirs)]
        same = values[0].keys() & values[1].keys()
        assert len(same) > 10
        assert {name: values[0][name] for name in same} == {name: values[1][name] for name in same}


WIDE = f"""# {"长标题" * 20}
{"unbroken" * 60} https://example.org/{"path" * 60}

```python
{"wide = 1; " * 40}
```
| {" | ".join("column" for _ in range(12))} |
|{"---|" * 12}
| {" | ".join("一个单元格" for _ in range(12))} |

> {"引用" * 200}
"""


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_hangs_over_the_edge(visit: Visit, server: Any, width: int) -> None:
    """On a phone and on a desk the page is as wide as the window; only code and tables scroll, by themselves."""
    page = visit(server.url, viewport={"width": width, "height": 640}, has_touch=width < 400)
    answered_with(page, WIDE, reasoning_content="think" * 200)
    page.fill("#input", "问" * 300)
    page.click("#send")
    ended(page, 1)
    page.locator(".thinking summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#scroller'))")
    scrolled = "[...document.querySelectorAll('.code pre, .scroll')].map(e => (e.scrollLeft = 9, e.scrollLeft > 0))"
    assert all(page.evaluate(scrolled)) or width == 1280
    if width < 700:
        page.click("#side-open")
        page.locator("#chats .pick").wait_for()
        page.keyboard.press("Escape")
    page.click("#settings-open")
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#settings'))")


def test_copying(visit: Visit, server: Any) -> None:
    """A message is copied as it was written, a block of code without its fence."""
    page = visit(server.url, permissions=["clipboard-read", "clipboard-write"])
    text = "**Do** this:\n\n```python\nprint('你好')\n\nx = 1\n```\n"
    answered_with(page, text)
    say(page, "How?", 1)
    assert page.locator(".bar span").inner_text() == "python"
    for selector, wanted in (
        (".copy-code", "print('你好')\n\nx = 1"),
        (".assistant .copy", text),
        (".user .copy", "How?"),
    ):
        page.click(selector)
        page.wait_for_selector("#said:text-is('Copied')", state="attached")
        assert page.evaluate("navigator.clipboard.readText()") == wanted
        page.evaluate("document.querySelector('#said').textContent = ''")


HOSTILE = """<script>window.hit = 1</script> <img src=x onerror="window.hit = 1"> <b>bold</b>

<iframe srcdoc="<script>parent.hit = 1</script>"></iframe>

[one](javascript:window.hit=1) [two](java\tscript:alert) [three](data:text/html,<script>hit=1</script>)
[four](//evil.example) [five]( JaVaScRiPt:alert(1) ) ![six](https://evil.example/pixel.png) <javascript:alert(1)>
[good](https://good.example/) [mail](mailto:a@good.example)

```html"><script>window.hit = 1</script>
<script>window.hit = 1</script>
```
| <svg onload=alert(1)> | b |
|---|---|
| [x](vbscript:a) | <style>*{display:none}</style> |
"""


def test_a_hostile_answer_is_text(page: Any) -> None:
    """Nothing of an answer runs, loads or becomes an element of its own choice; links go to the web only."""
    answered_with(page, HOSTILE)
    say(page, "<img src=x onerror='window.hit = 1'>", 1)
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit === undefined")
    bad = "script, img, iframe, svg, style, b, [onerror], [style], [srcdoc]"
    assert page.locator(".body").locator(bad).count() == 0
    links = page.locator(".body a").evaluate_all("all => all.map(a => [a.href, a.rel, a.target])")
    safe = ["https://evil.example/pixel.png", "https://good.example/", "mailto:a@good.example"]
    assert links == [[address, "noopener noreferrer", "_blank"] for address in safe]
    shown = page.locator(f"{LAST} >> .body").inner_text()
    for piece in ("<script>window.hit = 1</script>", "<b>bold</b>", "[one](javascript:window.hit=1)", "<svg onload"):
        assert piece in shown
    page.reload()
    assert page.evaluate("window.hit === undefined")


CASES = [
    "# One\n## Two ##\n### Three\ntext",
    "A *em* and **strong** and ***both*** and ~~gone~~ `code` end.",
    "中文**粗体**中文，*斜体*。",
    "a_b_c and _em_ and __strong__ snake_case_name 2 * 3 * 4",
    "- a\n- b\n  - c\n    - d\n- e",
    "1. one\n2. two\n   1. inner\n   2. inner\n3. three",
    "1. one\n\n   para in one\n\n2. two",
    "- a\n\n- b",
    "5. five\n6. six",
    "> quote\n> more\n>\n> - item\n> - item",
    "> quote\nlazy",
    "```python\nx = 1  # <b>\n\ny = 2\n```\nafter",
    "~~~\ntilde\n```\n~~~",
    "1. Do:\n   ```bash\n   pip install x\n   ```\n2. Then",
    "| a | b |\n|---|---|\n| 1 | `x` |\n| 2 | *3* |",
    "| a | b |\n|:--|--:|\n| 1 \\| 2 | 3 |\n\nafter",
    'a [link](https://example.com/a_(b)) and [t](<https://example.com/x> "title") <https://example.com/y>',
    "\\*not em\\* \\# \\\\ end\\\nnext",
    "``a ` b`` and ` `` ` and `open",
    "one\ntwo\n\nthree\n\n---\n***\n_ _ _",
    "para\n- list\n# heading\n1. list",
    "In the year\n2024. it was",
    "**bold *em inside* bold** *em **strong** em* **unclosed and *em*",
    "*a **b* c** a*b*c **a**b *foo [bar*](https://e.example/baz) **foo`**`**",
    "<b>text</b> & <>",
    "#hashtag\n#\ntext",
]
"""What this Markdown and CommonMark's agree on; single line ends are kept here, as chats have them."""


class Tree(HTMLParser):
    """HTML as the page's elements are written down for comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.written = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        self.written += f"<{re.sub('^h[1-6]$', 'h', tag)}{f' {address}' if address else ''}>"

    def handle_endtag(self, tag: str) -> None:
        self.written += f"</{re.sub('^h[1-6]$', 'h', tag)}>"

    def handle_data(self, data: str) -> None:
        code = "<pre>" in self.written.rpartition("</pre>")[2]
        data = data.removesuffix("\n") if code else data.strip("\n")
        self.written += escape(data, quote=False)


def test_markdown_is_as_another_reader_reads_it(page: Any) -> None:
    """The elements are those that markdown-it makes of the same text, and a growing text ends as a whole one."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    for text in CASES:
        tree = Tree()
        tree.feed(reader.render(text))
        assert page.evaluate(MARKDOWN, text) == tree.written
    for text in [*CASES, "\n\n".join(CASES), WIDE, HOSTILE]:
        whole, grown = page.evaluate(GROWN, text)
        assert grown == whole


def test_no_text_is_costly(page: Any) -> None:
    """Texts made to keep a reader busy, 100 kB each, take under two seconds and nest within bounds."""
    tricks = [
        "*a _b **c ",
        "[a](",
        "`a``",
        "> ",
        "- ",
        "![",
        "<http://",
        "~~a",
        "$$a ",
        "\\(a ",
        "|a",
        "1. ",
        "* a _b* c_ ",
    ]
    texts = [trick * (100_000 // len(trick)) for trick in tricks]
    texts += ["*a **b " * 8_000 + "c** d* " * 8_000, "\n".join("  " * i + "- x" for i in range(300)), "- a\n" * 20_000]
    for text in texts:
        took_ms, depth = page.evaluate(COST, text)
        assert took_ms < 2_000, text[:20]
        assert depth < 40, text[:20]


def test_a_word_that_is_being_composed_is_not_sent(page: Any) -> None:
    """Enter that ends the composing of a Chinese word sends nothing; the next one does. Shift+Enter begins a line."""
    keys = page.context.new_cdp_session(page)
    page.focus("#input")
    keys.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    keys.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    keys.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    assert page.locator(".message").count() == 0
    keys.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Shift+Enter")
    assert page.locator(".message").count() == 0
    page.keyboard.type("Bo")
    page.keyboard.press("Enter")
    ended(page, 1)
    assert page.locator(".user .body").inner_text() == "你好\nBo"


def test_the_reader_is_left_where_they_read(visit: Visit, server: Any) -> None:
    """A growing answer is followed at its end only; who scrolled up stays, and finds a way down."""
    page = visit(server.url, viewport={"width": 320, "height": 420})
    page.select_option("#model", "plain")
    setting(page, max_tokens=400, temperature=0)
    place = "(e => [e.scrollTop, e.scrollHeight - e.clientHeight - e.scrollTop])(document.querySelector('#scroller'))"
    say(page, "Bo is here. " * 4, 1)
    assert page.evaluate(place)[1] < 2
    page.get_by_role("button", name="Another answer").last.click()
    page.wait_for_selector(".assistant .body:not(:empty)")
    page.mouse.move(160, 150)
    page.mouse.wheel(0, -4000)
    ended(page, 1)
    top, below = page.evaluate(place)
    assert top < 50
    assert below > 80
    page.click("#to-end")
    assert page.evaluate(place)[1] < 2


def test_thoughts_and_calls_are_set_apart(page: Any) -> None:
    """What was thought is folded, a call of a tool is shown as code; neither is told as the answer."""
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at":"天气"}'}}
    answered_with(page, "Looking.", reasoning_content="Let me *think*.", tool_calls=[call])
    assert say(page, "Weather?", 1) == "Looking."
    assert not page.locator(".thought").is_visible()
    page.locator(".thinking summary").click()
    assert page.locator(".thought").inner_text() == "Let me *think*."
    assert page.locator(".calls .bar span").inner_text() == "Calls look"
    assert json.loads(page.locator(".calls pre").inner_text()) == {"at": "天气"}


def test_errors_are_told_in_plain_words(visit: Visit, server: Any) -> None:
    """A busy server is asked again, by itself or at once; what is refused or does not answer says why."""
    page = visit(server.url, expected="429|400|ERR_")
    headers = {"Retry-After": "30"}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, headers=headers, body="{}"), times=1)
    page.fill("#input", "Who is Ada?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".trouble:has-text('Trying again in')")
    page.get_by_role("button", name="Try now").click()
    assert ended(page, 1).strip()

    setting(page, max_tokens=999_999)
    say(page, "Sure?", 2)
    assert "The server refused this: max_tokens" in page.locator(".trouble >> nth=-1").inner_text()
    setting(page, max_tokens="")
    page.route("**/v1/chat/completions", lambda route: route.abort(), times=1)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".trouble:has-text('does not answer')")
    page.get_by_role("button", name="Try again").click()
    assert ended(page, 2).strip()


def test_the_oldest_turns_leave_a_full_context(visit: Visit, published: Path, serve: Any) -> None:
    """The answer says how many; the system prompt stays, a question that is too long is told and not sent on."""
    with serve(published) as server:
        page = visit(server.url, expected="400")
        asked: list[Any] = []
        page.on("requestfinished", lambda one: asked.append(one.post_data_json["messages"]) if one.post_data else None)
        setting(page, system="Be brief.", max_tokens=20, temperature=0)
        for number in range(1, 6):
            say(page, f"{number}{'x' * 40}", number)
        assert page.locator(".trouble.bad").count() == 0
        told = page.locator(f"{LAST} >> .note").inner_text()
        left_out = int(re.search(r"The oldest (\d+) messages were left out", told)[1])  # type: ignore[index]
        shown = page.evaluate("[...document.querySelectorAll('.message')].map((one) => one.className)")
        assert len(asked[-1]) == 1 + len(shown) - 1 - left_out
        assert [each["role"] for each in asked[-1][:2]] == ["system", "user"]
        assert page.locator(".note >> nth=0").is_hidden()

        say(page, "y" * 400, 6)
        assert "leaves no room" in page.locator(f"{LAST} >> .trouble.bad").inner_text()
        assert page.locator(f"{LAST} >> .note").is_hidden()
        say(page, "Bo?", 7)
        assert page.locator(f"{LAST} >> .trouble.bad").count() == 0
        assert "y" * 400 not in str(asked[-1])
        assert len(asked[-1]) > 2


def test_the_key_is_asked_for(visit: Visit, plain_run: Path, serve: Any) -> None:
    """A server with a key: the page asks, again after a wrong one, and keeps it in this tab alone."""
    with serve(plain_run, LLMX_API_KEY="open-sesame") as server:
        page = visit(server.url, expected="401", ready=False)
        page.fill("#key [name=key]", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-title:has-text('does not accept')")
        page.fill("#key [name=key]", "open-sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        setting(page, max_tokens=5)
        say(page, "Bo", 1)
        page.reload()
        page.wait_for_selector("#model option", state="attached")
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        other = page.context.new_page()
        other.goto(server.url)
        other.wait_for_selector("#key[open]")


def test_two_languages(visit: Visit, server: Any) -> None:
    """The browser's language is spoken, the switch changes it for good, and every string is there in both."""
    page = visit(server.url, locale="zh-CN")
    assert page.locator("#new-chat").inner_text() == "新对话"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.click("#language")
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    assert page.locator("#new-chat").inner_text() == "New chat"
    texts = (PAGE / "strings.js").read_text().split("\n  zh: {")
    english, chinese = (dict(re.findall(r'(\w+): "([^"]*)"', text)) for text in texts)
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key]))
    used = {key for path in PAGE.glob("*.js") for key in re.findall(r'\bt\("(\w+)"', path.read_text())}
    used |= set(re.findall(r'data-(?:t|label|hint)="(\w+)"', (PAGE / "index.html").read_text()))
    assert used
    assert used <= english.keys()
