"""The options beyond those of `torch.nn`."""

from typing import Any

import torch
from torch import nn

from losskit.core import inputs
from losskit.core.reduction import REDUCTIONS


class Options(nn.Module):
    """The options beyond those of `torch.nn`, for whichever loss comes next in the order of bases."""

    # For modules that were pickled without them.
    on_empty: str = "nan"
    out_dtype: torch.dtype | None = None
    backend: str = "auto"
    reduction: str
    # What `reduction` can be.
    reductions: tuple[str, ...] = REDUCTIONS

    def __init__(
        self,
        *args: Any,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # A wrong name is better found where it is written than in the first batch.
        inputs.check_common_options(type(self).__name__, self.reduction, on_empty, out_dtype, backend, self.reductions)
        self.on_empty = on_empty
        self.out_dtype = out_dtype
        self.backend = backend
