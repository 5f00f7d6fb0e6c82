"""A look at a corpus as a run would read it: figures, plots and samples, as text, JSON and a page."""

from llmx.inspect.figures import Corpus
from llmx.inspect.page import write_page
from llmx.inspect.text import to_text

__all__ = ["Corpus", "to_text", "write_page"]
