"""Gradients of four micro-batches, accumulated as if each held as many words as the others."""

import torch
from torch import nn

torch.manual_seed(0)
words = torch.randint(20, (128, 12))
tags = words % 5
# Sentences of 2 to 12 words, the shorter ones first; what is behind their end is ignored.
lengths = torch.linspace(2, 12, 128).long().unsqueeze(1)
tags[torch.arange(12) >= lengths] = -100

model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 5))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

for _ in range(10):
    for micro_batch in torch.arange(128).split(32):
        loss = criterion(model(words[micro_batch]).flatten(0, 1), tags[micro_batch].flatten())
        (loss / 4).backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"last loss {loss.item():.4f}")
