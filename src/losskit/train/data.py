"""The data sets, all as 8-bit images of 3×32×32 with class indices."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.errors import MissingDependencyError
from losskit.train.network import NUM_CLASSES

__all__ = ["ImageData", "digits", "fake", "load", "to_input"]


class ImageData(NamedTuple):
    train_images: Tensor  # (N, 3, 32, 32) uint8
    train_labels: Tensor  # (N,) int64
    test_images: Tensor
    test_labels: Tensor


def load(name: str, root: Path) -> ImageData:
    """The data set called `name`; `root` is the folder that holds CIFAR-10."""
    if name == "digits":
        return digits()
    if name == "fake":
        return fake()
    # Reading CIFAR-10 needs tarfile, gzip and pickle, which the other two do without.
    from losskit.train import cifar10

    return cifar10.load(root)


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """Pixels 0…255 as numbers in [-1, 1] of torch's default dtype, which the weights have too, on `device`."""
    return images.to(device, torch.get_default_dtype()).div_(127.5).sub_(1.0)


def digits() -> ImageData:
    """scikit-learn's 1797 handwritten digits, 8×8 with values 0…16, enlarged to 3×32×32.

    1437 are for training and 360 for testing; the split never changes, whatever the seed of the training.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "train: --data digits needs scikit-learn, which is not installed: pip install 'losskit[train]'."
        ) from error
    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1)  # (1797, 1, 8, 8)
    large = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return ImageData(images[train].contiguous(), labels[train], images[test].contiguous(), labels[test])


def fake(train: int = 256, test: int = 64) -> ImageData:
    """Random pixels, always the same ones, with every class equally often: for trying things out."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.arange(count) % NUM_CLASSES

    return ImageData(*part(train), *part(test))
