"""`losskit train`: a small network on real images or text, with a criterion from losskit, on one rank or on several.

`train(TrainOptions(...))` does what the command does. Needs the extra: `pip install 'losskit[train]'`.
"""

from losskit.train.options import TrainOptions
from losskit.train.session import Result, train

__all__ = ["Result", "TrainOptions", "train"]
