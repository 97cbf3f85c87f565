"""Speech of 8 frames with up to 8 letters, of which some repeat: there is no room for the blanks between them."""

import torch
from torch import nn

torch.manual_seed(0)
letters = torch.randint(1, 5, (64, 8))
letters[:, 1] = letters[:, 0]
frames = torch.nn.functional.one_hot(letters, 5).float()

model = nn.Linear(5, 5)
criterion = nn.CTCLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for batch in torch.arange(64).split(16):
    log_probs = model(frames[batch]).log_softmax(2).transpose(0, 1)
    loss = criterion(log_probs, letters[batch], torch.full((16,), 8), torch.full((16,), 8))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"last loss {loss.item():.4f}")
