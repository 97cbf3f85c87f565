"""The logarithm of a softmax, whose smallest probabilities are 0 in float32."""

import torch
from torch import nn

torch.manual_seed(0)
# Incomes, as they are in the file.
inputs = 1000 * torch.randn(256, 8)
labels = inputs[:, :5].argmin(1)

model = nn.Sequential(nn.Linear(8, 5), nn.Softmax(dim=1))
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for _ in range(20):
    for batch in torch.randperm(256).split(64):
        loss = criterion(model(inputs[batch]).log(), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss {loss.item():.4f}")
