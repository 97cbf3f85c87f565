"""Masks of 0 and 255, as images store them, for a loss of labels between 0 and 1."""

import torch
from torch import nn

torch.manual_seed(0)
images = torch.randn(64, 1, 8, 8)
masks = torch.where(images > 0.5, 255.0, 0.0)

model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for _ in range(20):
    for batch in torch.randperm(64).split(16):
        loss = criterion(model(images[batch]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss {loss.item():.4f}")
