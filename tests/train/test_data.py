"""The data sets that need no file, and the way from pixels to the network's input."""

import sys
from pathlib import Path

import pytest
import torch

from losskit.errors import MissingDependencyError
from losskit.train import data
from losskit.train.network import classifier


def test_digits_are_real_images_resized() -> None:
    from sklearn.datasets import load_digits

    images = data.digits()
    assert images.train_images.shape == (1437, 3, 32, 32)
    assert images.test_images.shape == (360, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    # Every digit is in exactly one part: the labels together are scikit-learn's.
    labels = torch.cat([images.train_labels, images.test_labels])
    assert torch.equal(labels.bincount(), torch.from_numpy(load_digits().target).bincount())
    assert images.test_labels.bincount(minlength=10).min() >= 20
    # Bilinear interpolation keeps the mean up to the rounding to 8 bits.
    pixels = torch.cat([images.train_images, images.test_images]).double()
    assert pixels.mean().item() == pytest.approx(load_digits().images.mean() * 255 / 16, abs=0.5)
    assert torch.equal(images.train_images[:, 0], images.train_images[:, 2])


def test_digits_are_split_the_same_way_each_time() -> None:
    torch.manual_seed(1)
    first = data.digits()
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, data.digits(), strict=True))


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError) as caught:
        data.load("digits", Path("unused"))
    assert str(caught.value) == (
        "train: --data digits needs scikit-learn, which is not installed: pip install 'losskit[train]'."
    )


def test_fake_images_are_always_the_same() -> None:
    first, second = data.load("fake", Path("unused")), data.fake()
    assert first.train_images.shape == (256, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.train_labels.bincount().tolist() == [26] * 6 + [25] * 4
    assert not torch.equal(first.train_images[:64], first.test_images)


def test_input_lies_in_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(data.to_input(pixels, torch.device("cpu")), torch.tensor([-1.0, -0.6, 1.0]))
    assert pixels.tolist() == [0, 51, 255]


def test_the_classifier_is_the_tutorials() -> None:
    network = classifier(0)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    shapes = [tuple(parameter.shape) for name, parameter in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 3, 5, 5), (32, 32, 5, 5), (64, 32, 5, 5), (64, 1024), (10, 64)]
    assert sum(parameter.numel() for parameter in network.parameters()) == 145578


def test_the_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = classifier(1), classifier(1), classifier(2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
