"""Small CIFAR-10 archives in the published format, and trainings that do not depend on the machine's load."""

import hashlib
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from losskit.train.cifar10 import BINARY, PYTHON, Batch, Release
from losskit.train.data import ImageData

ROWS = 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def python2_string(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def python2_int(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def python2_batch(images: Tensor, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle writes it under protocol 2: opcode by opcode, numpy array included."""
    rows = len(labels)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + (python2_int(0) + b"\x85" + python2_string(b"b") + b"\x87R")
        + (b"(" + python2_int(1) + python2_int(rows) + python2_int(3072) + b"\x86")
        + (b"cnumpy\ndtype\n" + python2_string(b"u1") + python2_int(0) + python2_int(1) + b"\x87R")
        + (b"(" + python2_int(3) + python2_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + python2_int(0))
        + (b"tb" + b"\x89" + python2_string(bytes(images.flatten().tolist())) + b"tb")
    )
    entries = (
        python2_string(b"batch_label") + python2_string(b"training batch 1 of 5")
        + python2_string(b"labels") + b"](" + b"".join(map(python2_int, labels)) + b"e"
        + python2_string(b"data") + array
        + python2_string(b"filenames") + b"](" + b"".join(python2_string(b"%d.png" % row) for row in range(rows)) + b"e"
    )  # fmt: skip
    return b"\x80\x02}(" + entries + b"u."


def binary_batch(images: Tensor, labels: list[int]) -> bytes:
    return b"".join(
        bytes([label]) + bytes(image.flatten().tolist()) for image, label in zip(images, labels, strict=True)
    )


class SmallCifar10:
    """One version of the data set with 20 images in a batch, and the release that describes exactly these files."""

    def __init__(self, release: Release, batch: Callable[[Tensor, list[int]], bytes]) -> None:
        self.published = release
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (6 * ROWS, 3, 32, 32), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 10, (6 * ROWS,), generator=generator)
        self.files = {
            published.name: batch(images, labels.tolist())
            for published, images, labels in zip(
                release.batches, self.images.split(ROWS), self.labels.split(ROWS), strict=True
            )
        }

    @property
    def expected(self) -> ImageData:
        train = 5 * ROWS
        return ImageData(self.images[:train], self.labels[:train], self.images[train:], self.labels[train:])

    def archive(self) -> bytes:
        """The files as .tar.gz, in another order than they are needed in, among files that are not."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            folder = tarfile.TarInfo(self.published.folder)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name, content in [("readme.html", b"see the page"), *reversed(self.files.items())]:
                member = tarfile.TarInfo(f"{self.published.folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    def release(self, archive: bytes | None = None) -> Release:
        """What the published sizes and sums would be, were these files the published ones."""
        archive = self.archive() if archive is None else archive
        return replace(
            self.published,
            size=len(archive),
            md5=hashlib.md5(archive).hexdigest(),
            batches=tuple(
                Batch(
                    batch.name,
                    len(self.files[batch.name]),
                    batch.md5 and hashlib.md5(self.files[batch.name]).hexdigest(),
                )
                for batch in self.published.batches
            ),
            rows=ROWS,
        )

    def write_archive(self, root: Path, content: bytes | None = None) -> Path:
        path = root / self.published.archive
        path.write_bytes(self.archive() if content is None else content)
        return path

    def write_folder(self, root: Path) -> Path:
        folder = root / self.published.folder
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


@pytest.fixture
def python_version() -> SmallCifar10:
    return SmallCifar10(PYTHON, python2_batch)


@pytest.fixture
def binary_version() -> SmallCifar10:
    return SmallCifar10(BINARY, binary_batch)


@pytest.fixture(params=["python", "binary"])
def either_version(request: pytest.FixtureRequest) -> SmallCifar10:
    return SmallCifar10(PYTHON, python2_batch) if request.param == "python" else SmallCifar10(BINARY, binary_batch)
