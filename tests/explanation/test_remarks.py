"""Remarks: each is brought about by an input that it is about, says what it says, and stays away otherwise."""

import math
import re

import pytest
import torch
from cases import ALL_CASES

import losskit
from explanation.provoked import CALLS
from losskit.explanation import Explanation
from losskit.explanation.messages import en

TEXTS = {
    "nan": "NaN: 1 of 2 losses, first element 1. One of them makes the whole sum NaN; mask= leaves them out.",
    "infinite": "Infinite: 1 of 2 losses, first sample 1. One of them makes the whole sum infinite.",
    "dominated": "One loss rules the sum: element 2 alone has 98.0% of it; an even share would be 25.0%.",
    "masked": "Masked: 1 of 2 losses. They are out of the value, the gradient and the divisor.",
    "none": "Nothing is reduced: the gradient shown is that of the sum of the losses.",
    "sum": "A sum grows with the number of losses, and so does its gradient; the mean would be 5.0000.",
    "normalizer": "The sum is divided by normalizer = 4.0000; the mean would divide by 2.0000.",
    "empty_nan": 'Nothing counts, and the mean of nothing is NaN. on_empty="zero" makes it 0, on_empty="raise" an '
    "error.",
    "empty_zero": 'Nothing counts: on_empty="zero" makes it 0.',
    "empty_sum": "Nothing counts: the sum of nothing is 0.",
    "legacy": 'size_average and reduce are deprecated and win over reduction: here they mean reduction="none".',
    "weight_not_divided": "The mean divides by the number of losses, 2, and not by the sum of their weights, "
    "1.5000. With sample_weight it divides by the sum.",
    "rounded": "The call returns 0.1846 where the steps, in float64, come to 0.1845: that is the rounding of its "
    "dtype.",
    "broadcast": "input (2, 1) and target (2,) broadcast to 4 losses for 2 inputs. That is rarely meant: is one of "
    "them to be reshaped?",
    "kink": "x = y in 2 of 3 places. |d| has no derivative at 0; the subgradient 0 is used.",
    "linear_part": "Above δ = 2.5000: 1 of 3 errors. They are on the line, with the slope ±2.5000; the others are "
    "on the square.",
    "constant_mean": "The mean of the targets, 3.0000, as the prediction for all would cost 4.6667 each, their "
    "variance. The predictions cost 3.0000 each, 64.3% of that.",
    "constant_median": "The median of the targets, 2.0000, as the prediction for all would cost 1.6667 each. The "
    "predictions cost 1.0000 each, 60.0% of that.",
    "clamped": "Clamped: 1 of 2 logarithms lie below −100, first element 1, and cost as if they were −100. "
    "binary_cross_entropy_with_logits of the scores has no such limit.",
    "saturated_binary": "Saturated: 1 of 2 right answers get less than 1e-6, first element 1 with 2.061e-09.",
    "binary_mean": "exp(−0.1643) = 0.8485 is the geometric mean of the probabilities that the right answers get. "
    "Saying 1/2 everywhere would cost ln 2 = 0.6931; this is 0.5289 below that.",
    "target_outside": "Outside [0, 1]: 1 of 2 targets, which range from 0.0000 to 255.0000. For them the loss has "
    "no lower bound.",
    "sigmoid_twice": "All scores lie in [0, 1]. If they are probabilities, the sigmoid of this loss is a second "
    "one, and a loss cannot fall below 0.3133 for a target of 1 and 0.6931 for a target of 0.",
    "right": "Largest score at the target: 1 of 2 samples. Softmax keeps the order of the scores, so argmax needs "
    "no softmax.",
    "mean_probability": "−log p of the targets is 1.0986 in the mean: exp(−1.0986) = 0.3333 is the geometric mean "
    "of the probabilities that they get.",
    "baseline": "Knowing nothing, 1/3 for each class, would cost ln 3 = 1.0986; this is 0.8591 below that.",
    "saturated": "Saturated: 1 of 2 samples give their target less than 1e-6, first sample 0 with p = 2.061e-09. "
    "There p − 1 = -1.0000: the gradient at the target's score can grow no more.",
    "saturated_nll": "Saturated: 1 of 2 samples give their target less than 1e-6, first sample 0 with p = "
    "2.061e-09. There p − 1 = -1.0000, the gradient that a log_softmax before the loss hands on to the target's "
    "score, can grow no more.",
    "ignored": "Ignored: 1 of 2 samples, whose target is ignore_index = 255. They are out of the value, the "
    "gradient and the divisor.",
    "class_weight_zero": "Weight 0: class 0. 1 of 2 samples have such a target; they add nothing to the sum and "
    "nothing to its divisor.",
    "smoothing_floor": "With this label smoothing no prediction costs less than 0.1985.",
    "shift": "Shift: each position is scored against the label of the position 2 further on. Where there is none, at "
    "the end of each sequence, nothing counts.",
    "softmax_twice": "Each row lies in [0, 1] and sums to 1, as probabilities do. The softmax of this loss is then "
    "a second one, and with 3 classes the loss cannot fall below 0.5514, even where every prediction is certain and "
    "right. If the rows come out of a softmax, pass what goes into it.",
    "textbook": "−Σ y·log x of these numbers as they are, without the softmax, gives 3.8162 in sum and 1.2721 in "
    "the mean. That is not this loss: the input holds scores, and scores are not probabilities. With p = "
    "softmax(x), −Σ y·log p is 3.3427 in sum and 1.1142 in the mean.",
    "textbook_single": "−Σ y·log x of these numbers as they are, without the softmax, gives 1.6094. That is not "
    "this loss: the input holds scores, and scores are not probabilities. With p = softmax(x), −Σ y·log p is 1.1019.",
    "log_softmax_before": "The rows are log-probabilities already, Σ exp(x) = 1. The softmax of this loss changes "
    "nothing; nll_loss does without it.",
    "one_class": "There is one class. Its probability is 1 whatever its score: the loss is 0 for ever.",
    "one_hot": "Each target is one-hot. Class indices give the same loss: target.argmax(1).",
    "no_distribution": "No distribution: 1 of 1 targets. The first sums to 2.0000 and has the least value 1.0000; "
    "probabilities are at least 0 and sum to 1.",
    "entropy_floor": "No prediction costs less than the entropy of the targets, 0.6931 in the mean. Here it is "
    "2.0181; the 1.3250 above that are the divergence.",
    "softmax_before_log_softmax": "With 1.5514 added, the first row lies in [0, 1] and sums to 1, and the others "
    "with their own numbers too: log_softmax was given probabilities. With 3 classes the loss then cannot fall "
    "below 0.5514. If a softmax stands before the log_softmax, leave it out.",
    "probabilities_for_logs": "Each row lies in [0, 1] and sums to 1: these are probabilities, and nll_loss wants "
    "their logarithms. With them the mean would be 0.2877.",
    "scores_for_logs": "exp of the first row sums to 7.7569 and not to 1: these are no log-probabilities. "
    "log_softmax makes them; the mean would be 3.0486.",
    "inactive": "Without loss: 1 of 2. The margin is kept there, and the gradient is 0.",
    "wrong_order": "Wrong order: 1 of 2 pairs, first element 1.",
    "signs_hinge": "Neither −1 nor 1: 1 of 1 targets, first element 0 with 0.0000. Their loss is the sum of both "
    "terms.",
    "signs_ranking": "Neither −1 nor 1: 1 of 1 targets, first element 0 with 0.0000. A target of 0 costs the margin "
    "whatever the scores are; 2·y − 1 makes signs of 0 and 1.",
    "signs_soft": "Neither −1 nor 1: 1 of 2 targets, first element 1 with 0.0000. A target of 0 costs ln 2 whatever "
    "the score is, without a gradient; 2·y − 1 makes signs of 0 and 1.",
    "signs_cosine": "Neither −1 nor 1: 1 of 1 targets, first sample 0 with 0.0000. Their loss is 0.",
    "negative_distance": "Below 0: 1 of 1 distances, the least -0.5000. Their loss may be below 0, which is legal; "
    "a distance is not.",
    "empty_list": "Empty list: 1 of 1 samples, first sample 0. They cost 0.",
    "listed_twice": "Twice in a list, and counted twice: a class of 1 of 1 samples, first sample 0.",
    "negative_density": "Below 0: 1 of 2 losses, the least -2.3026. That is legal: a density may be larger than 1.",
    "negative_poisson": "Below 0: 1 of 2 losses, the least -1.2817. That is legal: log y! is left out, or "
    "approximated.",
    "variance_below": "var is below eps = 1.000e-06 in 1 of 2 places, first element 0: eps stands in for it.",
    "calibration": "The mean of (x − y)²/v is 2.5000. It is 1 for variances that fit: the model is too sure.",
    "negative_target": "Below 0: 1 of 2 targets, first element 0. A probability is not; logarithms need "
    "log_target=True.",
    "negative_kl": "Below 0: 1 of 2 terms, the least -0.0966. That is legal: only the sum over a whole distribution "
    "is at least 0.",
    "rows_of_kl": "The probabilities in a row of target sum to 1.2000 and not to 1: the sum of such terms is no "
    "divergence.",
    "kl_mean": "The mean divides by all 4 elements. The divergence of distributions is the mean over the 2 samples: "
    'reduction="batchmean" gives 0.0719.',
    "no_counts": "No counts: 1 of 2 targets are below 0 or no whole numbers, first element 1 with 1.5000.",
    "poisson_floor": "No prediction costs less than 0.5000 in the mean, that of rates equal to the counts. Here it "
    "is 4.5537.",
    "no_rate": "x + eps is 0 or less in 1 of 2 places, first element 1: that is no rate.",
    "zero_vector": "A vector of zeros: 1 of 1 pairs, first sample 0. Its cosine with any other is 0.",
    "swapped": "swap: in 1 of 1 triplets the negative is nearer to the positive than to the anchor.",
    "collapsed": "All distances are near 0: the loss is the margin, 1.0000, whatever the vectors. Have they "
    "collapsed to a point?",
    "found": "Found: 2 of 2 are more similar to their own partner than to any other.",
    "chance": "Vectors that tell nothing would cost ln 2 = 0.6931 each; this is the same.",
    "single_pair": "There is one partner, and nothing to tell it from: the loss is 0 for ever.",
    "wrong_side": "On the wrong side: 1 of 2 own partners have p < 1/2, 1 of 2 others p > 1/2.",
    "infeasible": "Too short: sample 0 has 5 frames and needs 6, for labels: 4, and blanks between repeated ones: "
    "2. Its probability is 0.",
    "impossible": "zero_infinity=True would set the infinite losses (1 of 1) and their gradients to 0.",
    "zeroed": "zero_infinity=True: 1 of 1 samples cannot have their labels. They count as 0, with a gradient of 0.",
    "sequence_probability": "exp(−1.0986) = 0.3333 is the geometric mean of the probabilities of the samples' labels.",
    "per_label": "The mean divides each loss by the number of its labels first: long sequences weigh no more than "
    "short ones.",
    "frames_not_normalised": "exp of a frame's row sums to 3.0000 and not to 1. The gradient takes normalised "
    "log-probabilities for granted, as log_softmax gives them.",
}


def keys(explanation: Explanation) -> list[str]:
    return [remark.key for remark in explanation.remarks]


def values(explanation: Explanation, key: str) -> dict[str, object]:
    return dict(next(remark.values for remark in explanation.remarks if remark.key == key))


def test_every_remark_is_tested() -> None:
    known = [key.removeprefix("remark.") for key in en.MESSAGES if key.startswith("remark.")]
    assert sorted(known) == sorted(CALLS) == sorted(TEXTS)


@pytest.mark.parametrize("key", CALLS)
def test_the_remark_is_made_once_and_says_this(key: str) -> None:
    explanation = CALLS[key](lang="en")
    assert [remark.text for remark in explanation.remarks if remark.key == key] == [TEXTS[key]]
    # Every number of the text was computed, and is there to be read.
    remark = next(remark for remark in explanation.remarks if remark.key == key)
    shown = {explanation.say.shown(value) for value in remark.values.values()}
    template = en.MESSAGES[f"remark.{key}"]
    fixed = re.sub(r"\{\w+\}", " ", template)
    for number in re.findall(r"\d+\.\d{2,}(?:e-\d+)?", TEXTS[key]):
        assert number in fixed or any(number in text for text in shown)


@pytest.mark.parametrize("key", CALLS)
def test_the_numbers_of_a_remark_have_the_digits_that_are_asked_for(key: str) -> None:
    short, long = (CALLS[key](lang="en", digits=digits) for digits in (2, 9))
    for one, two in zip(short.remarks, long.remarks, strict=False):
        if one.key != two.key:
            # With more digits the rounding of the dtype shows.
            assert "rounded" in (one.key, two.key)
            continue
        changed = any(isinstance(value, float) and math.isfinite(value) for value in one.values.values())
        assert (one.text != two.text) == (changed or "compared" in one.values)


# What they are about, computed in another way.


def test_the_textbook_formula() -> None:
    rows = torch.tensor([[0.1234, 0.5555, 0.3211]] * 3)
    found = values(losskit.explain("cross_entropy", rows, [0, 1, 2]), "textbook")
    assert found["sum"] == pytest.approx(-float(rows.double().diagonal().log().sum()), rel=1e-12)
    assert found["right_mean"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(rows.double(), torch.tensor([0, 1, 2]))), rel=1e-12
    )
    # Not where a target has no logarithm, and not behind a layer, whose scores are no input.
    assert "textbook_single" not in keys(losskit.explain("cross_entropy", [[-0.1, 0.2]], [0]))
    assert "textbook_single" not in keys(losskit.explain("linear_cross_entropy", [[1.0]], [[1.0], [2.0]], [0]))


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_floor_of_a_second_softmax(classes: int) -> None:
    perfect = torch.eye(classes, dtype=torch.float64)[:20]
    target = torch.arange(len(perfect))
    explanation = losskit.explain("cross_entropy", perfect, target)
    assert values(explanation, "softmax_twice")["floor"] == pytest.approx(float(explanation.result), rel=1e-12)
    behind = losskit.explain("nll_loss", perfect.log_softmax(1), target)
    assert values(behind, "softmax_before_log_softmax")["floor"] == pytest.approx(float(behind.result), rel=1e-12)


def test_scores_are_not_taken_for_probabilities() -> None:
    """Over 200 batches of ordinary scores of four and more rows."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        classes, rows = 2 + seed % 9, 4 + seed % 13
        scale = (0.01, 0.3, 1.0, 5.0)[seed % 4]
        scores = scale * torch.randn(rows, classes, generator=generator)
        scores = scores.relu() if seed % 3 == 0 else scores
        target = torch.randint(classes, (rows,), generator=generator)
        found = keys(losskit.explain("cross_entropy", scores, target))
        assert "softmax_twice" not in found
        assert "log_softmax_before" not in found
        behind = keys(losskit.explain("nll_loss", scores.log_softmax(1), target))
        assert "probabilities_for_logs" not in behind
        assert "scores_for_logs" not in behind
        # Two classes whose scores never differ by more than 1 may be anything.
        if classes > 2:
            assert "softmax_before_log_softmax" not in behind
        binary = keys(losskit.explain("binary_cross_entropy_with_logits", scores, (scores > 0).float()))
        assert "sigmoid_twice" not in binary or bool(((scores >= 0) & (scores <= 1)).all())


def test_a_healthy_call_gets_no_warning() -> None:
    """What remains is what is true of every call: its baseline, and what exp(−loss) is."""
    for case in ALL_CASES:
        if case.name in ("kl_div", "poisson_nll_loss", "gaussian_nll_loss", "hinge_embedding_loss"):
            continue
        call = case.make("plain", case.shapes[0], torch.float32)
        found = set(keys(losskit.explain(case.name, call.input, call.target, **call.kwargs)))
        usual = {
            "baseline",
            "binary_mean",
            "chance",
            "constant_mean",
            "constant_median",
            "dominated",
            "empty_list",
            "found",
            "inactive",
            "linear_part",
            "mean_probability",
            "per_label",
            "right",
            "saturated",
            "sequence_probability",
            "wrong_order",
            "wrong_side",
        }
        assert found <= usual, found - usual


def test_the_share_that_rules_a_sum() -> None:
    assert "dominated" not in keys(losskit.explain("l1_loss", [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]))
    assert "dominated" in keys(losskit.explain("l1_loss", [1.0, 1.0, 2.1], [0.0, 0.0, 0.0]))
    # Of two, one nearly always has more than half.
    assert "dominated" not in keys(losskit.explain("l1_loss", [1.0, 9.0], [0.0, 0.0]))


def test_the_entropy_of_the_targets_is_the_least_loss() -> None:
    target = torch.softmax(torch.randn(5, 4, dtype=torch.float64), 1)
    explanation = losskit.explain("cross_entropy", target.log(), target)
    assert values(explanation, "entropy_floor")["above"] == pytest.approx(0, abs=1e-12)
    assert values(explanation, "entropy_floor")["entropy"] == pytest.approx(float(explanation.result), rel=1e-12)


def test_the_floor_of_label_smoothing() -> None:
    smoothed = torch.full((1, 4), 0.1 / 4, dtype=torch.float64)
    smoothed[0, 2] += 0.9
    explanation = losskit.explain("cross_entropy", smoothed.log(), [2], label_smoothing=0.1)
    assert values(explanation, "smoothing_floor")["floor"] == pytest.approx(float(explanation.result), rel=1e-12)


def test_the_best_constant() -> None:
    target = torch.randn(9, dtype=torch.float64)
    for name, best in (("mse_loss", target.mean()), ("l1_loss", target.median())):
        explanation = losskit.explain(name, torch.randn(9, dtype=torch.float64), target)
        found = values(explanation, "constant_mean" if name == "mse_loss" else "constant_median")
        assert found["loss"] == pytest.approx(float(losskit.explain(name, best.expand(9), target).result), rel=1e-12)
        assert found["here"] == pytest.approx(float(explanation.result), rel=1e-12)


def test_the_least_poisson_loss() -> None:
    counts = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    explanation = losskit.explain("poisson_nll_loss", counts.log(), counts)
    assert values(explanation, "poisson_floor")["floor"] == pytest.approx(float(explanation.result), rel=1e-12)


def test_ctc_names_the_samples_that_explain_ctc_names() -> None:
    targets, frames, counts = torch.tensor([[1, 1, 2], [1, 2, 1], [2, 2, 2]]), (3, 3, 4), (3, 3, 3)
    log_probs = torch.randn(4, 3, 3).log_softmax(2)
    explanation = losskit.explain("ctc_loss", log_probs, targets, frames, counts, reduction="none")
    named = [remark.values["where"] for remark in explanation.remarks if remark.key == "infeasible"]
    sentences = losskit.functional.explain_ctc(targets, frames, counts)
    assert len(named) == len(sentences) == 2
    for place, sentence in zip(named, sentences, strict=True):
        assert f"ctc_loss: {place} needs" in sentence
