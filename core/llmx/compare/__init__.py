"""Several models asked the same questions: how fast, how steady and how good, as text, JSON and a page to rate on."""

from llmx.compare.config import Comparison, read_comparison
from llmx.compare.questions import Question, read_questions

__all__ = ["Comparison", "Question", "read_comparison", "read_questions"]
