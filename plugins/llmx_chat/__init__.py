"""A conversation with a model in the terminal: the command `llmx chat`."""
