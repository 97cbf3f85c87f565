"""A classifier that puts out probabilities, before a loss that takes their logarithms."""

import torch
from torch import nn

torch.manual_seed(0)
inputs = torch.randn(256, 8)
labels = inputs[:, :5].argmax(1)

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5), nn.Softmax(dim=1))
criterion = nn.NLLLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for _ in range(20):
    for batch in torch.randperm(256).split(64):
        loss = criterion(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss {loss.item():.4f}")
