"""From what a run leaves to what other tools read: Hugging Face folders, GGUF files, PEFT adapters."""
