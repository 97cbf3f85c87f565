"""A picture as a file: the same bytes for the same picture, and never half of one."""

import io
from pathlib import Path
from typing import Any

from losskit.errors import LosskitValueError, OutputError
from losskit.files import replace_file
from losskit.plot.style import require_matplotlib

__all__ = ["SUFFIXES", "check_suffix", "save"]

SUFFIXES = (".pdf", ".png", ".svg")
# What matplotlib would fill with the present time.
_DATES = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}


def save(picture: Any, path: str | Path, *, dpi: float = 150) -> Path:
    """Write a picture as PNG, SVG or PDF, as the suffix of `path` says. A file that is there is replaced at once.

    **Args**: `picture`: what a function of `losskit.plot` returned, or a matplotlib Figure. `path`: ends in .png, .svg
    or .pdf. `dpi`: pixels per inch of a PNG.

    **Returns**: the path.

    **Raises**: `LosskitValueError` for another suffix, `OutputError` where the file cannot be written.

    **Example**:

    >>> import tempfile, losskit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     losskit.plot.save(losskit.plot.compare("mse", "l1"), f"{folder}/losses.svg").name
    'losses.svg'
    """
    path = Path(path)
    suffix = check_suffix(path, "save")
    require_matplotlib()
    import matplotlib

    figure = _figure(picture)
    buffer = io.BytesIO()
    # Names of clip paths in an SVG are random numbers where they are not seeded.
    with matplotlib.rc_context({"svg.hashsalt": "losskit"}):
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_DATES[suffix])
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"save: {path} cannot be written ({error.strerror or error}).") from error
    return path


def check_suffix(path: Path, function: str) -> str:
    suffix = path.suffix.casefold()
    if suffix not in SUFFIXES:
        raise LosskitValueError(
            f"{function}: {path} must end in .png, .svg or .pdf, which says the format, got "
            f"{path.suffix or 'no suffix'}."
        )
    return suffix


def _figure(picture: Any) -> Any:
    first = picture[0] if isinstance(picture, (tuple, list)) else picture
    return first if hasattr(first, "savefig") else first.figure
