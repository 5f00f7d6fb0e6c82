"""How good a model is: its loss on texts and chats, and tasks of lm-evaluation-harness."""
