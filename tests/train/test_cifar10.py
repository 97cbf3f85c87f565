"""Reading CIFAR-10: both versions, as archive and as folder; everything that can be wrong with them."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from losskit.errors import DataError
from losskit.train import cifar10
from losskit.train.cifar10 import BINARY, PYTHON
from losskit.train.data import ImageData, load

AGAIN = {
    PYTHON.archive: "download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz again.",
    BINARY.archive: "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz again.",
}


def assert_equal(read: ImageData, expected: ImageData) -> None:
    for name, tensor, other in zip(ImageData._fields, read, expected, strict=True):
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor, other), name


def refusal(root: Path, *releases: cifar10.Release) -> str:
    with pytest.raises(DataError) as caught:
        cifar10.load(root, releases)
    return str(caught.value)


def test_reads_the_archive(either_version: Any, tmp_path: Path) -> None:
    either_version.write_archive(tmp_path)
    assert_equal(cifar10.load(tmp_path, (either_version.release(),)), either_version.expected)
    assert [path.name for path in tmp_path.iterdir()] == [either_version.published.archive]


def test_reads_the_folder(either_version: Any, tmp_path: Path) -> None:
    either_version.write_folder(tmp_path)
    assert_equal(cifar10.load(tmp_path, (either_version.release(),)), either_version.expected)


def test_the_pickle_is_what_numpy_reads_too(python_version: Any) -> None:
    """The test's own archive is right: pickle and numpy, which may read anything, see the same batch in it."""
    batch = pickle.loads(python_version.files["data_batch_1"], encoding="bytes")
    images, labels = python_version.images[:20], python_version.labels[:20]
    assert batch[b"data"].dtype == "uint8"
    assert batch[b"data"].tolist() == images.flatten(1).tolist()
    assert batch[b"labels"] == labels.tolist()


def test_published_sizes() -> None:
    assert (PYTHON.size, PYTHON.md5) == (170498071, "c58f30108f718f92721af3b95e74349a")
    assert (BINARY.size, BINARY.md5) == (170052171, "c32a1d4ab5d03f1284b67883e8d87530")
    assert {batch.size for batch in BINARY.batches} == {10_000 * 3073}
    # A pickle holds its pixels and some bytes around them.
    assert all(10_000 * 3072 < batch.size < 10_000 * 3120 for batch in PYTHON.batches)
    assert [len(release.batches) for release in (PYTHON, BINARY)] == [6, 6]


def test_a_small_archive_is_not_the_published_one(either_version: Any, tmp_path: Path) -> None:
    path = either_version.write_archive(tmp_path)
    archive = either_version.published.archive
    assert refusal(tmp_path, PYTHON, BINARY) == (
        f"cifar10: {path} has {path.stat().st_size} bytes, the published file has {either_version.published.size}: "
        f"it is incomplete or another file; {AGAIN[archive]}"
    )


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("cifar10", tmp_path)
    assert str(caught.value) == (
        f"cifar10: {tmp_path} holds none of cifar-10-batches-py/, cifar-10-batches-bin/, cifar-10-python.tar.gz, "
        "cifar-10-binary.tar.gz; download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170498071 bytes) "
        f"and put it into {tmp_path}, as it is or extracted, or name its folder with --root."
    )


def test_a_file_is_missing(either_version: Any, tmp_path: Path) -> None:
    release = either_version.release()
    name = release.batches[2].name
    folder = either_version.write_folder(tmp_path)
    (folder / name).unlink()
    assert refusal(tmp_path, release) == f"cifar10: {folder} lacks {name}; {AGAIN[release.archive]}"


def test_a_member_is_missing(either_version: Any, tmp_path: Path) -> None:
    release = either_version.release()
    name = release.batches[2].name
    del either_version.files[name]
    content = either_version.archive()
    path = either_version.write_archive(tmp_path, content)
    release = replace(release, size=len(content), md5=hashlib.md5(content).hexdigest())
    assert refusal(tmp_path, release) == f"cifar10: {path} lacks {release.folder}/{name}; {AGAIN[release.archive]}"


def test_a_truncated_download(either_version: Any, tmp_path: Path) -> None:
    whole = either_version.archive()
    path = either_version.write_archive(tmp_path, whole[:-1])
    assert refusal(tmp_path, either_version.release(whole)) == (
        f"cifar10: {path} has {len(whole) - 1} bytes, the published file has {len(whole)}: "
        f"it is incomplete or another file; {AGAIN[either_version.published.archive]}"
    )


def test_a_flipped_bit_in_the_archive(either_version: Any, tmp_path: Path) -> None:
    whole = either_version.archive()
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    path = either_version.write_archive(tmp_path, bytes(broken))
    assert refusal(tmp_path, either_version.release(whole)) == (
        f"cifar10: {path} has MD5 {hashlib.md5(broken).hexdigest()}, the published file has "
        f"{hashlib.md5(whole).hexdigest()}: it is damaged; {AGAIN[either_version.published.archive]}"
    )


def test_a_flipped_bit_in_a_file(python_version: Any, tmp_path: Path) -> None:
    folder = python_version.write_folder(tmp_path)
    release = python_version.release()
    content = bytearray(python_version.files["data_batch_4"])
    content[len(content) // 2] ^= 1
    (folder / "data_batch_4").write_bytes(content)
    assert refusal(tmp_path, release) == (
        f"cifar10: {folder / 'data_batch_4'} has MD5 {hashlib.md5(content).hexdigest()}, the published file has "
        f"{release.batches[3].md5}: it is damaged; {AGAIN[PYTHON.archive]}"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"this is not gzip at all",
        lambda whole: gzip.compress(b"this is not tar at all" * 100),
        lambda whole: whole[: len(whole) // 2],
    ],
    ids=["no gzip", "no tar", "cut"],
)
def test_an_unreadable_archive(damage: Any, either_version: Any, tmp_path: Path) -> None:
    """Even where size and sum are as published."""
    content = damage(either_version.archive())
    path = either_version.write_archive(tmp_path, content)
    message = refusal(tmp_path, either_version.release(content))
    assert message.startswith(f"cifar10: {path} is no readable .tar.gz archive (")
    assert message.endswith(f"); {AGAIN[either_version.published.archive]}")


def test_members_that_leave_the_folder_are_not_written(either_version: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("../escaped", str(tmp_path / "absolute")):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        for name, content in either_version.files.items():
            member = tarfile.TarInfo(f"{either_version.published.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    root = tmp_path / "root"
    root.mkdir()
    either_version.write_archive(root, buffer.getvalue())
    assert_equal(cifar10.load(root, (either_version.release(buffer.getvalue()),)), either_version.expected)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["root", either_version.published.archive])


def test_a_link_is_not_followed(either_version: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    name = f"{either_version.published.folder}/{either_version.published.batches[0].name}"
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    path = either_version.write_archive(tmp_path, buffer.getvalue())
    assert refusal(tmp_path, either_version.release(buffer.getvalue())) == (
        f"cifar10: {path}:{name} is not a plain file; {AGAIN[either_version.published.archive]}"
    )


class _Command:
    """Makes a directory when it is unpickled by anything that lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command(protocol: int, python_version: Any, tmp_path: Path) -> None:
    content = pickle.dumps({"data": _Command(tmp_path / "executed")}, protocol=protocol)
    python_version.files["data_batch_1"] = content
    folder = python_version.write_folder(tmp_path)
    assert refusal(tmp_path, python_version.release()) == (
        f"cifar10: {folder / 'data_batch_1'} refers to {os.mkdir.__module__}.mkdir, which no CIFAR-10 batch does; "
        f"nothing in it was executed. Do not trust the source of this file; {AGAIN[PYTHON.archive]}"
    )
    assert not (tmp_path / "executed").exists()
    # The file is a real attack: whoever unpickles it without care runs the command.
    pickle.loads(content)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize(
    "name", [b"numpy\nload", b"numpy.core.multiarray\nfromfile", b"builtins\neval", b"numpy\nndarray.tofile"]
)
def test_only_three_names_are_known(name: bytes, python_version: Any, tmp_path: Path) -> None:
    python_version.files["test_batch"] = b"\x80\x02c" + name + b"\n."
    python_version.write_folder(tmp_path)
    assert f" refers to {name.decode().replace(chr(10), '.')}, which no " in refusal(tmp_path, python_version.release())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}(",
        b"no pickle",
        b"\x80\x02K\x01b.",
        b"\x80\x02cnumpy\ndtype\n}b.",
        b"\x80\x02cnumpy\ndtype\n)\x81K\x01K\x02\x86b0N0R.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02U\x01xQ.",
    ],
)
def test_a_damaged_pickle(content: bytes, python_version: Any, tmp_path: Path) -> None:
    python_version.files["data_batch_2"] = content
    folder = python_version.write_folder(tmp_path)
    message = refusal(tmp_path, python_version.release())
    assert message.startswith(f"cifar10: {folder / 'data_batch_2'} is no readable batch (")
    assert message.endswith(f"); {AGAIN[PYTHON.archive]}")


@pytest.mark.parametrize(
    "replacement",
    [
        (b"K\x14M\x00\x0c", b"K\x13M\x00\x0c"),
        (b"U\x02u1", b"U\x02O8"),
        (b"tb\x89T", b"tb\x88T"),
        (b"U\x04data", b"U\x04dada"),
        (b"U\x06labels](K", b"U\x06labels](\x88K"),
    ],
    ids=["shape", "dtype", "Fortran order", "no data", "a label too many"],
)
def test_a_pickle_of_something_else(replacement: tuple[bytes, bytes], python_version: Any, tmp_path: Path) -> None:
    whole = python_version.files["data_batch_5"]
    # Numbers above 255 take five bytes in the test's pickles.
    old, new = (part.replace(b"M\x00\x0c", b"J\x00\x0c\x00\x00") for part in replacement)
    assert whole.count(old) == 1
    python_version.files["data_batch_5"] = whole.replace(old, new)
    folder = python_version.write_folder(tmp_path)
    assert refusal(tmp_path, python_version.release()) == (
        f"cifar10: {folder / 'data_batch_5'} does not hold 20 rows of 3072 bytes under 'data' with 20 labels 0 to 9 "
        f"under 'labels'; {AGAIN[PYTHON.archive]}"
    )


def test_a_label_out_of_range(binary_version: Any, tmp_path: Path) -> None:
    content = bytearray(binary_version.files["data_batch_3.bin"])
    content[7 * 3073] = 10
    binary_version.files["data_batch_3.bin"] = bytes(content)
    folder = binary_version.write_folder(tmp_path)
    assert refusal(tmp_path, binary_version.release()) == (
        f"cifar10: {folder / 'data_batch_3.bin'} has label 10 in record 7, labels are 0 to 9; {AGAIN[BINARY.archive]}"
    )
