"""A regression with predictions of shape (N, 1) and targets of shape (N)."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = inputs.sum(1)

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for _ in range(20):
    for batch in torch.randperm(256).split(64):
        loss = mse_loss(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss {loss.item():.4f}")
