"""A training with three losses that are in order: classes, a number, and yes or no."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
inputs = torch.randn(256, 8)
data = TensorDataset(inputs, inputs[:, :5].argmax(1), inputs.sum(1), (inputs[:, :3] > 0).float())

body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
classes, number, answers = nn.Linear(32, 5), nn.Linear(32, 1), nn.Linear(32, 3)
criterion = nn.CrossEntropyLoss()
parts = nn.ModuleList([body, classes, number, answers])
optimizer = torch.optim.Adam(parts.parameters(), lr=0.01)

for _ in range(20):
    for batch, label, value, flags in DataLoader(data, batch_size=64, shuffle=True):
        features = body(batch)
        loss = criterion(classes(features), label)
        loss = loss + F.mse_loss(number(features).squeeze(1), value)
        loss = loss + F.binary_cross_entropy_with_logits(answers(features), flags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss {loss.item():.4f}")
