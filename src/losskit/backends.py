"""What runs on this machine."""

import platform

import torch

from losskit import __version__
from losskit.kernels import cpu


def info() -> dict[str, str]:
    """Versions, backends and why one is missing, instruction sets, threads: what `losskit info` prints.

    **Example**:

    >>> list(info())[:3]
    ['losskit', 'python', 'torch']
    """
    if cpu.available():
        kernels = f"available: {cpu.description()}"
        sets = ", ".join(cpu.instruction_sets())
    else:
        kernels, sets = f"not available: {cpu.unavailable_reason()}", "-"
    return {
        "losskit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backend reference": "available: the definitions in plain torch operations",
        "backend cpu": kernels,
        "backend triton": "not available: no loss has a Triton kernel",
        "instruction sets": sets,
        "tensor exchange": cpu.exchange(),
        "threads": str(torch.get_num_threads()),
    }
