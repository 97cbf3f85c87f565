"""Embeddings that end in a ReLU and have all become 0: the loss is the margin, and stays so."""

import torch
from torch import nn

torch.manual_seed(0)
points = torch.randn(64, 8)

model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
nn.init.constant_(model[0].bias, -20.0)
criterion = nn.TripletMarginLoss(margin=0.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for _ in range(20):
    near = points + 0.1 * torch.randn(64, 8)
    loss = criterion(model(points), model(near), model(points.roll(1, 0)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"last loss {loss.item():.4f}")
