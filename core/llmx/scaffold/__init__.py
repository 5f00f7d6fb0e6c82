"""Writes the project of a new plugin: `llmx plugins new`."""

from llmx.scaffold.names import Names
from llmx.scaffold.project import write_project

__all__ = ["Names", "write_project"]
