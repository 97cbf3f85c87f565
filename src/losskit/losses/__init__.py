"""The definitions: each loss in plain torch operations. They import torch alone and are the specification."""
