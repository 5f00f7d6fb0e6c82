"""What all our HTML pages share: one file that needs nothing else, its look, its policy, and how it is written."""

from llmx.page.files import write_as_ours
from llmx.page.html import encodable, render_page, script_json
from llmx.page.scale import short, ticks

__all__ = ["encodable", "render_page", "script_json", "short", "ticks", "write_as_ours"]
