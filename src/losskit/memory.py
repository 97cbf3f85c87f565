"""Memory of the CPU kernels' results, and the C library's."""

import ctypes

from losskit.core import inputs
from losskit.errors import LosskitRuntimeError, LosskitValueError
from losskit.kernels import cpu

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def empty_cache() -> None:
    """Give back to the system the buffers that lie idle for the next gradient. Buffers in use are not touched."""
    cpu.empty_cache()


def memory_stats() -> dict[str, int]:
    """The state of the buffer pool of the CPU kernels.

    **Returns**: `active_bytes` (in tensors that live), `cached_bytes` (idle), `peak_active_bytes`, `limit_bytes` (of
    what may lie idle), `hits` and `misses` (buffers of 64 KiB and more that were at hand, or had to be mapped). All 0
    without the kernels.

    **Example**:

    >>> sorted(memory_stats())
    ['active_bytes', 'cached_bytes', 'hits', 'limit_bytes', 'misses', 'peak_active_bytes']
    """
    return cpu.memory_stats()


def set_cache_limit(limit: int) -> None:
    """Let at most `limit` bytes lie idle in the buffer pool; 0 keeps nothing. The default is a quarter of the machine.

    **Raises**: TypeError for anything but an int, ValueError for a negative one.
    """
    inputs.check_int("set_cache_limit", "limit", limit)
    if not 0 <= limit < 2**63:
        raise LosskitValueError(f"set_cache_limit: limit must be 0 or more bytes, got {limit}.")
    cpu.set_cache_limit(limit)


def tune_malloc() -> None:
    """Make the C library keep large freed blocks instead of returning them, for the whole process.

    Eager PyTorch maps and zeroes anew every large buffer that it frees and takes again; with this it does not, and its
    own losses run about 1.8 times as fast. Freed memory then stays with the process. It cannot be undone. glibc only.

    **Raises**: RuntimeError where the C library is not glibc or refuses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        raise LosskitRuntimeError("tune_malloc: this C library has no mallopt; it needs glibc.")
    if not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise LosskitRuntimeError("tune_malloc: mallopt refused the setting.")
