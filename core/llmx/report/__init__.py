"""A page that shows and compares runs: one HTML file, no network; needs neither torch nor a plugin."""

from llmx.report.facts import METRICS
from llmx.report.files import PAGE, read_runs, write_page, write_report

__all__ = ["METRICS", "PAGE", "read_runs", "write_page", "write_report"]
