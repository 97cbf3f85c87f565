"""The picture is a picture: decodable, of the promised size, with both curves in it."""

import io
import sys
import zlib

import pytest

from losskit.errors import MissingDependencyError
from losskit.train.curve import loss_curve

ROWS = [
    {"epoch": epoch, "train_loss": 2.0 / epoch, "test_loss": 2.5 / epoch, "test_accuracy": 0.9, "seconds": 1.0}
    for epoch in range(1, 8)
]


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG, each checked against its CRC."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, position = [], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        body = png[position + 4 : position + 8 + length]
        crc = int.from_bytes(png[position + 8 + length : position + 12 + length], "big")
        assert zlib.crc32(body) == crc
        found.append((body[:4], body[4:]))
        position += 12 + length
    return found


def test_png() -> None:
    png = loss_curve(ROWS, "digits, cross_entropy", "cross entropy (nats)")
    parts = chunks(png)
    kinds = [kind for kind, _ in parts]
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    width, height = (int.from_bytes(parts[0][1][start : start + 4], "big") for start in (0, 4))
    assert (width, height) == (1050, 675)


def test_both_curves_are_drawn() -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(loss_curve(ROWS, "digits, mse", "squared error")))[..., :3].reshape(-1, 3)
    for color in ("#0072b2", "#d55e00"):
        assert (abs(pixels - to_rgb(color)).max(axis=1) < 0.01).sum() > 500, color


def test_one_epoch() -> None:
    assert chunks(loss_curve(ROWS[:1], "fake, mse", "squared error"))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError) as caught:
        loss_curve(ROWS, "digits", "nats")
    assert str(caught.value) == (
        "train: the loss curve needs matplotlib, which is not installed: pip install 'losskit[train]'."
    )
