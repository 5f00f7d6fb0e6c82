"""A run in the hands of a Python program.

import llmx
import torch

texts = ["The quick brown fox jumps over the lazy dog.", "人工智能正在改变世界。"]
trainer = llmx.Trainer(
    "qwen3",  # or an nn.Module of your own
    texts,  # or chats, a path, a dataset
    loss=torch.nn.CrossEntropyLoss(),
    optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
    scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100),
    overrides={"model.preset": "tiny", "data.sequence_length": 64},
)
trainer.train(epochs=10)
trainer.train(steps=10)  # goes on
print(trainer.evaluate(["The quick brown fox."]))
print(trainer.generate("人工智能", max_new_tokens=20, temperature=0.8))
print(trainer.stats())
trainer.save("my-model")  # a Hugging Face folder: llmx.load("my-model")
"""
