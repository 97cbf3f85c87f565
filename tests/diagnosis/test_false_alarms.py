"""Calls that are in order raise no alarm: no error, no warning, and few notes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import nn

import losskit
from diagnosis.healthy import BUILDERS, DTYPES, Maker
from losskit.diagnosis.checks import CHECKS

# Over the calls of one loss, as a share: notes that say what is good to know.
NOTES = {"half-precision-loss": 0.6, "maybe-probabilities": 0.1}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", BUILDERS)
def test_random_calls_that_are_in_order(name: str) -> None:
    build, count = BUILDERS[name]
    make = Maker(seed=sum(map(ord, name)))
    found: Counter[tuple[str, str]] = Counter()
    for _ in range(count):
        function, args, kwargs = build(make)
        report = losskit.diagnose(function, *args, **kwargs)
        assert report.notes == ()
        found.update((finding.severity, finding.code) for finding in report.findings)
    alarms = {key: number for key, number in found.items() if key[0] != "info"}
    assert alarms == {}
    assert {code for _, code in found} <= set(NOTES)
    for (_, code), number in found.items():
        assert number <= NOTES[code] * count, code


def test_each_of_the_exact_checks_has_seen_2000_calls() -> None:
    assert set(BUILDERS) == {name for check in CHECKS for name in check.functions}
    for check in CHECKS:
        assert sum(BUILDERS[name][1] for name in check.functions) >= 2000, check.number


def first_calls(make: Maker, classes: int) -> list[str]:
    """What three training calls of a new classifier with PyTorch's own last layer lead to."""
    torch.manual_seed(make.random.randrange(2**31))
    body = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, classes))
    criterion = nn.CrossEntropyLoss()
    with losskit.watch(criterion) as watching:
        for _ in range(3):
            criterion(body(torch.randn(64, 20)), torch.randint(classes, (64,)))
    return list(watching.report.codes)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_first_loss_of_new_classifiers(classes: int) -> None:
    make = Maker(seed=classes)
    assert [codes for codes in (first_calls(make, classes) for _ in range(100)) if codes] == []


@pytest.mark.parametrize("samples", [8, 64])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_first_loss_of_new_logistic_regressions(classes: int, samples: int) -> None:
    torch.manual_seed(classes)
    criterion, warned = nn.CrossEntropyLoss(), []
    for _ in range(100):
        with losskit.watch(criterion) as watching:
            criterion(nn.Linear(8, classes)(torch.randn(samples, 8)), torch.randint(classes, (samples,)))
        # In a batch that small a guess can be better than a guess by chance, which is a note.
        warned += [finding for finding in watching.report.findings if finding.severity != "info"]
    assert warned == []


def test_weights_cancel_by_chance_in_small_batches_only() -> None:
    """Two classes, eight samples: one class in 2 of 256 batches."""
    make = Maker(seed=0)
    weight = torch.tensor([1.0, 3.0])
    found = 0
    for _ in range(500):
        target = make.integers(0, 2, (8,))
        report = losskit.diagnose(nn.CrossEntropyLoss(weight=weight), make.values((8, 2), DTYPES[0]), target)
        assert set(report.codes) <= {"weights-cancel"}
        found += len(report.codes)
        assert ("weights-cancel" in report.codes) == (len(target.unique()) == 1)
    assert found <= 500 * 2 / 256 + 4 * math.sqrt(500 * 2 / 256)


def test_random_scores_on_ambiguous_axes_are_not_called_wrong() -> None:
    """As many places as classes: in doubt a warning, and no certainty, however large the scores are."""
    make = Maker(seed=0)
    for _ in range(300):
        x = make.values((8, 6, 6), torch.float32)
        report = losskit.diagnose(nn.CrossEntropyLoss(), x, make.integers(0, 6, (8, 6)))
        assert set(report.codes) <= {"class-axis"}
        assert not report.has_errors


def test_later_calls_are_not_held_against_a_training_that_goes_well() -> None:
    """History is kept; it leads to nothing where the loss falls."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 8), torch.randn(256)
    y = x.sum(1) + 0.01 * y
    model, criterion = nn.Linear(8, 1), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with losskit.watch(criterion, every=5) as watching:
        for _ in range(60):
            batch = torch.randperm(256)[:64]
            loss = criterion(model(x[batch]).squeeze(1), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert watching.report.codes == ()
