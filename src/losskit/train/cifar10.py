"""CIFAR-10 from the archive its authors publish, in the "python" and in the "binary" version.

The archive is read in place: nothing is extracted, so no path in it is ever written to. The python version's batches
are pickles, and a pickle may name any function to call. Here every name in a pickle stands for an inert record that
keeps what it was given, and only the three names that the published batches use are accepted:

    numpy.core.multiarray._reconstruct (numpy.ndarray, (0,), b"b")   then the state (1, shape, dtype, False, bytes)
    numpy.dtype (b"u1", 0, 1)

The pixels are taken from the recorded bytes. numpy itself takes no part.
"""

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from losskit.errors import DataError
from losskit.train.data import ImageData
from losskit.train.network import NUM_CLASSES

__all__ = ["BINARY", "PYTHON", "Batch", "Release", "load"]

HOME = "https://www.cs.toronto.edu/~kriz"
PIXELS = 3 * 32 * 32
# The label's byte comes first.
RECORD = 1 + PIXELS

# pickle has one exception for what it notices itself; what a damaged file makes it do raises any of the others.
DAMAGED_PICKLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Batch:
    """A file of images with its published size, and its MD5 where that is published."""

    name: str
    size: int
    md5: str | None = None


@dataclass(frozen=True)
class Release:
    """One published version of the data set: five training batches, then the test batch."""

    archive: str
    size: int
    md5: str
    folder: str
    batches: tuple[Batch, ...]
    parse: Callable[[bytes, int, str], tuple[Tensor, Tensor]] = field(repr=False)
    rows: int = 10_000


def load(root: Path, releases: tuple[Release, ...] | None = None) -> ImageData:
    """Read CIFAR-10 from `root`, which holds an archive or the folder extracted from one.

    An extracted folder is preferred to an archive, and the python version to the binary one. `releases` says which
    files are accepted; by default exactly the published ones.
    """
    releases = (PYTHON, BINARY) if releases is None else releases
    for release in releases:
        if (root / release.folder).is_dir():
            return _assemble(release, _from_folder(root / release.folder, release))
    for release in releases:
        if (root / release.archive).is_file():
            return _assemble(release, _from_archive(root / release.archive, release))
    names = ", ".join([f"{release.folder}/" for release in releases] + [release.archive for release in releases])
    first = releases[0]
    raise DataError(
        f"cifar10: {root} holds none of {names}; download {HOME}/{first.archive} ({first.size} bytes) "
        f"and put it into {root}, as it is or extracted, or name its folder with --root."
    )


def _assemble(release: Release, contents: Iterator[tuple[str, bytes]]) -> ImageData:
    parts = [release.parse(content, release.rows, where) for where, content in contents]
    train, test = parts[:-1], parts[-1]
    return ImageData(
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        test[0],
        test[1],
    )


def _from_folder(folder: Path, release: Release) -> Iterator[tuple[str, bytes]]:
    for batch in release.batches:
        path = folder / batch.name
        if not path.is_file():
            raise DataError(f"cifar10: {folder} lacks {batch.name}; {_again(release)}")
        _check_size(str(path), path.stat().st_size, batch.size, release)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cifar10: {path} cannot be read ({error.strerror}).") from error
        _check_md5(str(path), hashlib.md5(content, usedforsecurity=False).hexdigest(), batch.md5, release)
        yield str(path), content


def _from_archive(path: Path, release: Release) -> Iterator[tuple[str, bytes]]:
    _check_size(str(path), path.stat().st_size, release.size, release)
    wanted = {f"{release.folder}/{batch.name}": batch for batch in release.batches}
    contents: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            _check_md5(str(path), _md5_of(file), release.md5, release)
            file.seek(0)
            # One pass in the archive's own order: each step back would decompress it from its start again.
            with tarfile.open(fileobj=file, mode="r:gz") as archive:
                for member in archive:
                    if member.name in wanted:
                        contents[member.name] = _read_member(archive, member, path, wanted[member.name], release)
    # A damaged stream surfaces as any of these, depending on where it is damaged.
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"cifar10: {path} is no readable .tar.gz archive ({error}); {_again(release)}") from error
    for name in wanted:
        if name not in contents:
            raise DataError(f"cifar10: {path} lacks {name}; {_again(release)}")
        yield f"{path}:{name}", contents[name]


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, batch: Batch, release: Release
) -> bytes:
    where = f"{path}:{member.name}"
    # A link could name any other member; a batch is a plain file.
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise DataError(f"cifar10: {where} is not a plain file; {_again(release)}")
    _check_size(where, member.size, batch.size, release)
    data = content.read()
    _check_md5(where, hashlib.md5(data, usedforsecurity=False).hexdigest(), batch.md5, release)
    return data


def _md5_of(file: BinaryIO) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _check_size(where: str, size: int, expected: int, release: Release) -> None:
    if size != expected:
        raise DataError(
            f"cifar10: {where} has {size} bytes, the published file has {expected}: "
            f"it is incomplete or another file; {_again(release)}"
        )


def _check_md5(where: str, md5: str, expected: str | None, release: Release) -> None:
    if expected is not None and md5 != expected:
        raise DataError(
            f"cifar10: {where} has MD5 {md5}, the published file has {expected}: it is damaged; {_again(release)}"
        )


def _again(release: Release) -> str:
    return f"download {HOME}/{release.archive} again."


class _Inert:
    """Stands for whatever a pickle names: keeps the arguments and the state it is given, and does nothing.

    `__setstate__` also keeps a pickle from setting attributes: it takes what BUILD would otherwise spread over the
    object, and on a class, where it lacks its instance, it raises.
    """

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    NAMES = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self.NAMES:
            raise _ForbiddenNameError(f"{module}.{name}")
        return type(name, (_Inert,), {})


class _ForbiddenNameError(Exception):
    """A pickle names something that no published batch names."""


def _parse_python(content: bytes, rows: int, where: str) -> tuple[Tensor, Tensor]:
    try:
        # Written by Python 2: its strings are bytes.
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _ForbiddenNameError as error:
        raise DataError(
            f"cifar10: {where} refers to {error}, which no CIFAR-10 batch does; nothing in it was executed. "
            f"Do not trust the source of this file; {_again(PYTHON)}"
        ) from None
    except DAMAGED_PICKLE as error:
        raise DataError(f"cifar10: {where} is no readable batch ({error}); {_again(PYTHON)}") from error
    pixels = _pixels(batch.get(b"data"), rows) if isinstance(batch, dict) else None
    labels = batch.get(b"labels") if isinstance(batch, dict) else None
    if pixels is None or not _are_labels(labels, rows):
        raise DataError(
            f"cifar10: {where} does not hold {rows} rows of {PIXELS} bytes under 'data' "
            f"with {rows} labels 0 to 9 under 'labels'; {_again(PYTHON)}"
        )
    return _images(pixels, rows), torch.tensor(labels, dtype=torch.int64)


def _pixels(array: object, rows: int) -> bytes | None:
    """The bytes of a recorded numpy array of `rows`×3072 unsigned bytes, or None where it is anything else."""
    if not (isinstance(array, _Inert) and type(array).__name__ == "_reconstruct"):
        return None
    if not (isinstance(array.state, tuple) and len(array.state) == 5):
        return None
    _, shape, dtype, fortran_order, content = array.state
    if not (isinstance(dtype, _Inert) and dtype.arguments[:1] == (b"u1",)):
        return None
    if shape != (rows, PIXELS) or fortran_order or not isinstance(content, bytes) or len(content) != rows * PIXELS:
        return None
    return content


def _are_labels(labels: object, rows: int) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) == rows
        and all(type(label) is int and 0 <= label < NUM_CLASSES for label in labels)
    )


def _parse_binary(content: bytes, rows: int, where: str) -> tuple[Tensor, Tensor]:
    if len(content) != rows * RECORD:
        raise DataError(f"cifar10: {where} does not hold {rows} records of {RECORD} bytes; {_again(BINARY)}")
    # A copy, because torch tensors are writable and bytes are not.
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(rows, RECORD)
    labels = records[:, 0].long()
    if int(labels.max()) >= NUM_CLASSES:
        row = int((labels >= NUM_CLASSES).nonzero()[0])
        raise DataError(
            f"cifar10: {where} has label {int(labels[row])} in record {row}, labels are 0 to 9; {_again(BINARY)}"
        )
    return records[:, 1:].reshape(rows, 3, 32, 32), labels


def _images(pixels: bytes, rows: int) -> Tensor:
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(rows, 3, 32, 32)


PYTHON = Release(
    archive="cifar-10-python.tar.gz",
    size=170_498_071,
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    batches=(
        Batch("data_batch_1", 31_035_704, "c99cafc152244af753f735de768cd75f"),
        Batch("data_batch_2", 31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
        Batch("data_batch_3", 31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
        Batch("data_batch_4", 31_035_696, "634d18415352ddfa80567beed471001a"),
        Batch("data_batch_5", 31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        Batch("test_batch", 31_035_526, "40351d587109b95175f43aff81a1287e"),
    ),
    parse=_parse_python,
)
BINARY = Release(
    archive="cifar-10-binary.tar.gz",
    size=170_052_171,
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    # No MD5 is published for these; the archive's covers them.
    batches=(
        Batch("data_batch_1.bin", 30_730_000),
        Batch("data_batch_2.bin", 30_730_000),
        Batch("data_batch_3.bin", 30_730_000),
        Batch("data_batch_4.bin", 30_730_000),
        Batch("data_batch_5.bin", 30_730_000),
        Batch("test_batch.bin", 30_730_000),
    ),
    parse=_parse_binary,
)
