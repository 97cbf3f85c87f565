"""Calls that bring about each remark, by its key, and explanations of all kinds."""

import math
from collections.abc import Callable, Iterator

import torch
from cases import ALL_CASES

import losskit
from losskit.explanation import Explanation

inf, nan = math.inf, math.nan
eye = [[1.0 if i == k else 0.0 for k in range(3)] for i in range(3)]
CALLS: dict[str, Callable[..., Explanation]] = {
    "nan": lambda **more: losskit.explain("mse_loss", [1.0, nan], [0.0, 0.0], **more),
    "infinite": lambda **more: losskit.explain("cross_entropy", [[0.0, 0.0], [0.0, -inf]], [0, 1], **more),
    "dominated": lambda **more: losskit.explain("mse_loss", [0.0, 0.0, 10.0, 1.0], [1.0, 0.0, 0.0, 0.0], **more),
    "masked": lambda **more: losskit.explain("mse_loss", [1.0, nan], [0.0, 0.0], mask=[1, 0], **more),
    "none": lambda **more: losskit.explain("mse_loss", [1.0], [0.0], reduction="none", **more),
    "sum": lambda **more: losskit.explain("mse_loss", [1.0, 3.0], [0.0, 0.0], reduction="sum", **more),
    "normalizer": lambda **more: losskit.explain("mse_loss", [1.0, 3.0], [0.0, 0.0], normalizer=4, **more),
    "empty_nan": lambda **more: losskit.explain("cross_entropy", [[1.0, 3.0]], [-100], **more),
    "empty_zero": lambda **more: losskit.explain("cross_entropy", [[1.0, 3.0]], [-100], on_empty="zero", **more),
    "empty_sum": lambda **more: losskit.explain("cross_entropy", [[1.0, 3.0]], [-100], reduction="sum", **more),
    "legacy": lambda **more: losskit.explain(
        "mse_loss", [1.0, 2.0, 3.0], [2.0, 2.0, 4.0], size_average=False, reduce=False, reduction="sum", **more
    ),
    "weight_not_divided": lambda **more: losskit.explain("huber_loss", [1.0, 3.0], [0.0, 0.0], weight=[1, 0.5], **more),
    "rounded": lambda **more: losskit.explain(
        "mse_loss",
        torch.tensor([0.1, 0.3], dtype=torch.bfloat16),
        torch.tensor([0.7, 0.2], dtype=torch.bfloat16),
        **more,
    ),
    "broadcast": lambda **more: losskit.explain("mse_loss", [[1.0], [2.0]], [1.0, 2.0], **more),
    "kink": lambda **more: losskit.explain("l1_loss", [1.0, 2.0, 3.0], [1.0, 2.0, 5.0], **more),
    "linear_part": lambda **more: losskit.explain("huber_loss", [1.0, 2.0, 9.0], [1.0, 2.0, 5.0], delta=2.5, **more),
    "constant_mean": lambda **more: losskit.explain("mse_loss", [1.0, 2.0, 3.0], [1.0, 2.0, 6.0], **more),
    "constant_median": lambda **more: losskit.explain("l1_loss", [1.0, 2.0, 3.0], [1.0, 2.0, 6.0], **more),
    "clamped": lambda **more: losskit.explain("binary_cross_entropy", [0.5, 0.0], [1.0, 1.0], **more),
    "saturated_binary": lambda **more: losskit.explain(
        "binary_cross_entropy_with_logits", [2.0, -20.0], [1.0, 1.0], **more
    ),
    "binary_mean": lambda **more: losskit.explain("binary_cross_entropy", [0.9, 0.2], [1.0, 0.0], **more),
    "target_outside": lambda **more: losskit.explain(
        "binary_cross_entropy_with_logits", [2.0, -20.0], [255.0, 0.0], **more
    ),
    "sigmoid_twice": lambda **more: losskit.explain(
        "binary_cross_entropy_with_logits", [0.9, 0.1, 0.2, 1.0], [1.0, 0.0, 0.0, 1.0], **more
    ),
    "right": lambda **more: losskit.explain("cross_entropy", [[2.0, 1.0], [-1.0, 0.0]], [0, 0], **more),
    "mean_probability": lambda **more: losskit.explain("cross_entropy", [[0.0, 0.0, 0.0]], [1], **more),
    "baseline": lambda **more: losskit.explain("cross_entropy", [[2.0, 0.0, 0.0]], [0], **more),
    "saturated": lambda **more: losskit.explain("cross_entropy", [[20.0, 0.0], [0.0, 1.0]], [1, 1], **more),
    "saturated_nll": lambda **more: losskit.explain(
        "nll_loss", torch.tensor([[20.0, 0.0], [0.0, 1.0]]).log_softmax(1), [1, 1], **more
    ),
    "ignored": lambda **more: losskit.explain(
        "cross_entropy", [[1.0, 0.0], [1.0, 2.0]], [1, 255], ignore_index=255, **more
    ),
    "class_weight_zero": lambda **more: losskit.explain(
        "cross_entropy", [[1.0, 0.0], [1.0, 2.0]], [1, 0], weight=[0, 2], **more
    ),
    "smoothing_floor": lambda **more: losskit.explain("cross_entropy", [[5.0, 0.0]], [0], label_smoothing=0.1, **more),
    "shift": lambda **more: losskit.explain(
        "linear_cross_entropy", [[[1.0], [2.0], [0.5]]], [[1.0], [-1.0]], [[0, 1, 0]], shift=2, **more
    ),
    "softmax_twice": lambda **more: losskit.explain("cross_entropy", eye, [0, 1, 2], **more),
    "textbook": lambda **more: losskit.explain("cross_entropy", [[0.1234, 0.5555, 0.3211]] * 3, [0, 1, 2], **more),
    "textbook_single": lambda **more: losskit.explain("cross_entropy", [[0.1, 0.2, 0.3]], [1], **more),
    "log_softmax_before": lambda **more: losskit.explain(
        "cross_entropy", torch.tensor([[3.0, -1.0, 2.0]]).log_softmax(1), [1], **more
    ),
    "one_class": lambda **more: losskit.explain("cross_entropy", [[3.0], [1.0]], [0, 0], **more),
    "one_hot": lambda **more: losskit.explain("cross_entropy", [[3.0, -1.0]], [[0, 1]], **more),
    "no_distribution": lambda **more: losskit.explain("cross_entropy", [[3.0, -1.0]], [[1, 1]], **more),
    "entropy_floor": lambda **more: losskit.explain("cross_entropy", [[3.0, -1.0]], [[0.5, 0.5]], **more),
    "softmax_before_log_softmax": lambda **more: losskit.explain(
        "nll_loss", torch.tensor(eye).log_softmax(1), [0, 1, 2], **more
    ),
    "probabilities_for_logs": lambda **more: losskit.explain("nll_loss", [[0.25, 0.75]], [1], **more),
    "scores_for_logs": lambda **more: losskit.explain("nll_loss", [[2.0, -1.0]], [1], **more),
    "inactive": lambda **more: losskit.explain("margin_ranking_loss", [2.0, 1.0], [1.0, 1.5], [1.0, 1.0], **more),
    "wrong_order": lambda **more: losskit.explain(
        "margin_ranking_loss", [2.0, 1.0], [1.0, 1.5], [1.0, 1.0], margin=0.5, **more
    ),
    "signs_hinge": lambda **more: losskit.explain("hinge_embedding_loss", [0.5], [0.0], **more),
    "signs_ranking": lambda **more: losskit.explain("margin_ranking_loss", [2.0], [1.0], [0.0], margin=0.5, **more),
    "signs_soft": lambda **more: losskit.explain("soft_margin_loss", [0.5, 1.0], [1.0, 0.0], **more),
    "signs_cosine": lambda **more: losskit.explain("cosine_embedding_loss", [[1.0, 0.0]], [[1.0, 1.0]], [0], **more),
    "negative_distance": lambda **more: losskit.explain("hinge_embedding_loss", [-0.5], [1.0], **more),
    "empty_list": lambda **more: losskit.explain("multilabel_margin_loss", [[0.1, 0.2]], [[-1, 0]], **more),
    "listed_twice": lambda **more: losskit.explain("multilabel_margin_loss", [[0.1, 0.2]], [[1, 1]], **more),
    "negative_density": lambda **more: losskit.explain(
        "gaussian_nll_loss", [1.0, 2.0], [1.0, 0.0], [0.01, 1.0], **more
    ),
    "negative_poisson": lambda **more: losskit.explain("poisson_nll_loss", [1.0, 2.0], [4.0, 1.0], **more),
    "variance_below": lambda **more: losskit.explain("gaussian_nll_loss", [1.0, 2.0], [1.0, 0.0], [0.0, 1.0], **more),
    "calibration": lambda **more: losskit.explain("gaussian_nll_loss", [1.0, 2.0], [0.0, 0.0], [1.0, 1.0], **more),
    "negative_target": lambda **more: losskit.explain("kl_div", [-1.0, -2.0], [-1.0, 0.5], **more),
    "negative_kl": lambda **more: losskit.explain("kl_div", [[-0.5, -2.0]], [[0.5, 0.5]], reduction="sum", **more),
    "rows_of_kl": lambda **more: losskit.explain(
        "kl_div", torch.tensor([[0.5, 0.5]]).log(), [[0.5, 0.7]], reduction="sum", **more
    ),
    "kl_mean": lambda **more: losskit.explain(
        "kl_div", torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log(), [[0.5, 0.5], [0.5, 0.5]], **more
    ),
    "no_counts": lambda **more: losskit.explain("poisson_nll_loss", [1.0, 2.0], [1.0, 1.5], **more),
    "poisson_floor": lambda **more: losskit.explain("poisson_nll_loss", [1.0, 2.0], [1.0, 0.0], **more),
    "no_rate": lambda **more: losskit.explain("poisson_nll_loss", [1.0, -1.0], [1.0, 0.0], log_input=False, **more),
    "zero_vector": lambda **more: losskit.explain("cosine_embedding_loss", [[0.0, 0.0]], [[1.0, 1.0]], [1], **more),
    "swapped": lambda **more: losskit.explain(
        "triplet_margin_loss", [[0.0, 0.0]], [[1.0, 1.0]], [[1.0, 2.0]], swap=True, **more
    ),
    "collapsed": lambda **more: losskit.explain(
        "triplet_margin_loss", [[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]], **more
    ),
    "found": lambda **more: losskit.explain("info_nce", [[1.0, 0.2], [0.1, 1.0]], [[0.9, 0.0], [0.3, 0.8]], **more),
    "chance": lambda **more: losskit.explain(
        "clip_loss", [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], 2, **more
    ),
    "single_pair": lambda **more: losskit.explain("clip_loss", [[1.0, 0.2]], [[0.9, 0.0]], 10.0, **more),
    "wrong_side": lambda **more: losskit.explain(
        "siglip_loss", [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.3], [-1.0, 0.05]], 10.0, -1.0, **more
    ),
    "infeasible": lambda **more: losskit.explain(
        "ctc_loss", torch.zeros(5, 1, 3).log_softmax(2), [[1, 2, 2, 2]], [5], [4], **more
    ),
    "impossible": lambda **more: losskit.explain(
        "ctc_loss", torch.zeros(5, 1, 3).log_softmax(2), [[1, 2, 2, 2]], [5], [4], **more
    ),
    "zeroed": lambda **more: losskit.explain(
        "ctc_loss", torch.zeros(5, 1, 3).log_softmax(2), [[1, 2, 2, 2]], [5], [4], zero_infinity=True, **more
    ),
    "sequence_probability": lambda **more: losskit.explain(
        "ctc_loss", torch.zeros(2, 1, 3).log_softmax(2), [[1]], [2], [1], **more
    ),
    "per_label": lambda **more: losskit.explain(
        "ctc_loss", torch.zeros(2, 1, 3).log_softmax(2), [[1, 2]], [2], [2], **more
    ),
    "frames_not_normalised": lambda **more: losskit.explain("ctc_loss", torch.zeros(2, 1, 3), [[1]], [2], [1], **more),
}


# The options of cross entropy that torch has not.
SCORE_OPTIONS: list[dict[str, float]] = [
    {"logit_scale": 0.5},
    {"softcap": 2.0},
    {"z_loss": 0.1, "softcap": 2.0, "logit_scale": -1.5, "label_smoothing": 0.1},
]


def explanations(lang: str) -> Iterator[Explanation]:
    """Of every loss and variant, of large and unusual inputs, and with every remark."""
    for case in ALL_CASES:
        for variant in case.variants:
            call = case.make(variant, case.shapes[0], torch.float32)
            yield losskit.explain(case.name, call.input, call.target, **call.kwargs, lang=lang)
        mask = torch.ones(call.run(case.function, reduction="none").shape, dtype=torch.bool)
        for more in ({"mask": mask, "sample_weight": mask.float()}, {"reduction": "sum"}):
            yield losskit.explain(case.name, call.input, call.target, **call.kwargs, **more, lang=lang)
        large = (20, 3, 20) if case.name == "ctc_loss" else (20, 20)
        call = case.make("plain", large, torch.float32)
        yield losskit.explain(case.name, call.input, call.target, **call.kwargs, lang=lang, rows=3, columns=4)
        yield losskit.explain(case.name, call.input, call.target, **call.kwargs, lang=lang, reduction="none")
    log_probs = torch.randn(30, 4, 20).log_softmax(2)
    labels = torch.randint(1, 20, (4, 12))
    yield losskit.explain("ctc_loss", log_probs, labels, (30,) * 4, (12,) * 4, lang=lang)
    yield losskit.explain("ctc_loss", [[-1.0, -0.5]], [1], (1,), (1,), lang=lang, mask=False)
    yield losskit.explain("kl_div", [[-1.0, -0.5]], [[0.5, 0.5]], reduction="batchmean", lang=lang)
    yield losskit.explain("nll_loss", [-800.0, 0.0], 0, lang=lang)
    vectors = [torch.randn(2, 3) for _ in range(3)]
    yield losskit.explain(losskit.TripletMarginWithDistanceLoss(swap=True), *vectors, lang=lang)
    for call in CALLS.values():
        yield call(lang=lang)
    yield losskit.explain("gaussian_nll_loss", [1.0, 2.0], [1.5, 2.0], [4.0, 4.0], lang=lang)
    yield losskit.explain("cross_entropy", [[0.0, 0.0]], [1], lang=lang)
    for options in SCORE_OPTIONS:
        yield losskit.explain("cross_entropy", [[1.0, 2.0, -3.0]], [1], **options, lang=lang)
