"""`losskit train`: the tutorials' classifier on real images, with a criterion from losskit.

`train(TrainOptions(...))` does what the command does. Needs the extra: `pip install 'losskit[train]'`.
"""

from losskit.train.options import TrainOptions
from losskit.train.session import Result, train

__all__ = ["Result", "TrainOptions", "train"]
