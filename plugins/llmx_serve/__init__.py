"""An OpenAI-compatible server with a chat page: the command `llmx serve`."""
