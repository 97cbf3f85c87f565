"""Speed and memory of losskit against PyTorch, reported only for values and gradients that were checked first."""
