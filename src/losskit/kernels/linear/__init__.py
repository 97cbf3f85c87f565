"""A linear layer and the loss of its scores, some rows at a time: loop, matrix products and autograd node."""

from losskit.kernels.linear.chunks import Plan, Step, evaluate
from losskit.kernels.linear.node import anew, chunked_loss, scaled
from losskit.kernels.linear.products import Products, products_for

__all__ = ["Plan", "Products", "Step", "anew", "chunked_loss", "evaluate", "products_for", "scaled"]
