"""A tagger that is trained well, and validated on scores that were reshaped where they had to be transposed."""

import torch
from torch import nn

torch.manual_seed(0)
words = torch.randint(20, (128, 6))
tags = words % 5

model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 5))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

for _ in range(10):
    for batch in torch.randperm(128).split(32):
        loss = criterion(model(words[batch]).transpose(1, 2), tags[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with torch.no_grad():
    for batch in torch.arange(128).split(32):
        scores = model(words[batch])
        validation = criterion(scores.reshape(len(batch), 5, 6), tags[batch])
print(f"training {loss.item():.4f}, validation {validation.item():.4f}")
