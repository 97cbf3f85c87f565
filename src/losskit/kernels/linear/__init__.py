"""A linear layer and the loss of its scores, some rows at a time: the loop, its matrix products and its autograd node."""

from losskit.kernels.linear.chunks import Plan, Step, evaluate
from losskit.kernels.linear.node import chunked_loss, differentiated
from losskit.kernels.linear.products import Products, products_for

__all__ = ["Plan", "Products", "Step", "chunked_loss", "differentiated", "evaluate", "products_for"]
