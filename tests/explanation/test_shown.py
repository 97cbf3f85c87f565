"""What is shown of large inputs, and that it is said."""

import math

import pytest
import torch

import losskit
from losskit.explanation import Explanation


def rows(explanation: Explanation, key: str) -> list[tuple[int, ...]]:
    return list(explanation.step(key).table.rows)


def test_small_inputs_are_shown_whole() -> None:
    explanation = losskit.explain("mse_loss", torch.randn(3, 4), torch.randn(3, 4), lang="en")
    assert rows(explanation, "square") == [(i, k) for i in range(3) for k in range(4)]
    assert explanation.notes == ()


def test_the_first_the_worst_and_the_best() -> None:
    errors = torch.full((1000,), 5.0)
    errors[[10, 500, 900]] = torch.tensor([100.0, 300.0, 200.0])
    errors[[20, 600, 700]] = torch.tensor([1.0, 3.0, 2.0])
    explanation = losskit.explain("l1_loss", errors, torch.zeros(1000), rows=9, lang="en")
    assert rows(explanation, "absolute") == [(i,) for i in (0, 1, 2, 10, 20, 500, 600, 700, 900)]
    assert explanation.notes == (
        "9 of 1000 elements are shown: the first 3, the 3 with the largest loss and the 3 with the smallest.",
    )
    assert "\n  9 of 1000 elements are shown" in str(explanation)
    assert explanation.to_dict()["notes"] == list(explanation.notes)
    # The rest is there all the same.
    assert explanation.step("absolute").value.shape == (1000,)
    assert explanation.gradients["input"].values.shape == (1000,)
    assert explanation.step("mean").value == errors.double().mean()


def test_what_does_not_count_is_neither_worst_nor_best() -> None:
    errors = torch.arange(1.0, 101.0)
    errors[0], errors[50] = 0.0, 1000.0
    mask = torch.ones(100, dtype=torch.bool)
    mask[[0, 50]] = False
    explanation = losskit.explain("l1_loss", errors, torch.zeros(100), mask=mask, rows=6)
    assert rows(explanation, "absolute") == [(0,), (1,), (2,), (98,), (99,)]


def test_a_nan_is_the_worst() -> None:
    errors = torch.linspace(2.0, 1.0, 50)
    errors[7], errors[8] = math.nan, math.inf
    assert rows(losskit.explain("l1_loss", errors, torch.zeros(50), rows=3), "absolute") == [(0,), (7,), (49,)]
    assert rows(losskit.explain("l1_loss", errors, torch.zeros(50), rows=6), "absolute")[2:4] == [(7,), (8,)]


def test_of_many_classes_the_targets_and_the_largest_scores() -> None:
    scores = torch.zeros(2, 1000)
    scores[0, 17], scores[1, 400], scores[1, 401] = 5.0, 9.0, 7.0
    explanation = losskit.explain("cross_entropy", scores, [3, 999], columns=6, lang="en")
    shown = explanation.step("scores").table.entries["class"]
    assert {3, 999, 17, 400, 401} <= set(shown)
    assert len(shown) == 6
    assert list(shown) == sorted(shown)
    assert explanation.notes == (
        "6 of 1000 classes are shown: those of the targets and those with the largest scores.",
    )
    assert explanation.step("softmax").value.shape == (2, 1000)
    assert "x[999]" in str(explanation)
    assert "x[5]" not in str(explanation)


def test_more_targets_than_columns_are_all_shown() -> None:
    target = torch.arange(12) * 50
    explanation = losskit.explain("cross_entropy", torch.randn(12, 1000), target, columns=4)
    assert set(target.tolist()) <= set(explanation.step("scores").table.entries["class"]) | {400, 450, 500, 550}
    assert len(explanation.step("scores").table.entries["class"]) <= 2 * 4 + 3


def test_numbers_of_a_long_vector() -> None:
    vectors = [torch.randn(2, 300) for _ in range(3)]
    explanation = losskit.explain("triplet_margin_loss", *vectors, columns=5, lang="en")
    assert explanation.step("triplets").table.entries["feature"] == (0, 1, 2, 3, 4)
    assert explanation.notes == ("The first 5 of 300 numbers of each vector are shown.",)
    assert explanation.gradients["anchor"].values.shape == (2, 300)


def test_frames_and_states_of_long_sequences() -> None:
    log_probs = torch.randn(200, 20, 50).log_softmax(2)
    labels = torch.randint(1, 50, (20, 60))
    explanation = losskit.explain("ctc_loss", log_probs, labels, (200,) * 20, (60,) * 20, rows=6, lang="en")
    frames = rows(explanation, "frames")
    samples = {n for n, _ in frames}
    assert len(samples) <= 6
    for n in samples:
        own = [frame for sample, frame in frames if sample == n]
        assert own[0] == 0
        assert own[-1] == 199
        assert len(own) == 3
    assert explanation.step("forward").value.shape == (20, 200, 121)
    assert len(explanation.notes) == 4
    assert len(str(explanation).splitlines()) < 400


def test_a_large_layer() -> None:
    explanation = losskit.explain("linear_cross_entropy", torch.randn(40, 30), torch.randn(60, 30), torch.arange(40))
    assert explanation.gradients["linear_weight"].values.shape == (60, 30)
    assert len(explanation.gradients["linear_weight"].table.rows) == 12
    assert len(explanation.gradients["input"].table.rows) <= 12
    assert explanation.gradients["input"].table.rows == explanation.step("linear").table.rows


@pytest.mark.parametrize("count", [0, 1])
def test_no_rows_and_one_row(count: int) -> None:
    explanation = losskit.explain("cross_entropy", torch.zeros(count, 3), torch.zeros(count, dtype=torch.int64))
    assert len(explanation.step("softmax").table.rows) == count
    assert str(explanation)


def test_as_many_digits_as_asked_for() -> None:
    for digits, shown in ((2, "1.10"), (4, "1.1019"), (10, "1.1019428482")):
        explanation = losskit.explain(
            "cross_entropy", torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64), [1], digits=digits
        )
        assert f" {shown}" in str(explanation)
    small = losskit.explain("mse_loss", [1.00001], [1.0], digits=3)
    # Not 0.000: a number that is not 0 is not shown as 0.
    assert "1.00e-05" in str(small)
    assert " 0.000\n" not in str(small)
