"""The exceptions of losskit.

    LosskitError
    ├─ LosskitValueError           + ValueError
    ├─ LosskitTypeError            + TypeError, AttributeError
    ├─ LosskitIndexError           + IndexError
    ├─ LosskitRuntimeError         + RuntimeError
    │  ├─ UnsupportedDtypeError    + NotImplementedError
    │  ├─ BackendError               a named backend cannot run this call
    │  └─ EmptyLossError             on_empty="raise" and nothing counts
    ├─ MissingDependencyError      + ImportError
    ├─ DataError                   + RuntimeError
    └─ OutputError                 + OSError

    LossWarning                    + UserWarning: a fault in the use of a loss that raises no error

Each is also the type that PyTorch raises for the same wrong input, so that `except IndexError` around a
`torch.nn` loss goes on working.
"""

__all__ = [
    "BackendError",
    "DataError",
    "EmptyLossError",
    "LossWarning",
    "LosskitError",
    "LosskitIndexError",
    "LosskitRuntimeError",
    "LosskitTypeError",
    "LosskitValueError",
    "MissingDependencyError",
    "OutputError",
    "UnsupportedDtypeError",
]


class LosskitError(Exception):
    """Base of every exception that losskit raises on purpose."""


class LosskitValueError(LosskitError, ValueError):
    """An argument has the right type and a wrong value."""


class LosskitTypeError(LosskitError, TypeError, AttributeError):
    """An argument has the wrong type.

    Also an AttributeError, which is what torch raises for a list where a tensor belongs.
    """


class LosskitIndexError(LosskitError, IndexError):
    """A class index lies outside [0, C)."""


class LosskitRuntimeError(LosskitError, RuntimeError):
    """Shapes, dtypes or devices that do not go together."""


class UnsupportedDtypeError(LosskitRuntimeError, NotImplementedError):
    """The loss is not defined for this dtype."""


class BackendError(LosskitRuntimeError):
    """A backend that the call names cannot run it."""


class EmptyLossError(LosskitRuntimeError):
    """Nothing counts, and the call asked to be told."""


class MissingDependencyError(LosskitError, ImportError):
    """An optional package is needed for this."""


class DataError(LosskitError, RuntimeError):
    """A data set is missing, incomplete or damaged."""


class OutputError(LosskitError, OSError):
    """A file or folder cannot be written."""


class LossWarning(UserWarning):
    """A fault in the use of a loss that raises no error."""
