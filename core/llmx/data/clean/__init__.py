"""Cleaning of records: what is broken, empty, too short, too long or double goes, and what stays is normalised.

It belongs to the core because it is a step of the way from any corpus to tokens and names no part of a run; the library
that tells foreign encodings is an extra, imported only for a file that needs it.
"""

from llmx.data.clean.options import CleanOptions
from llmx.data.clean.run import clean

__all__ = ["CleanOptions", "clean"]
