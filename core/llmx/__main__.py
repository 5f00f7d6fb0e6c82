"""`python -m llmx` is `llmx`."""

from llmx.cli import main

main()
