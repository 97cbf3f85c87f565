"""What each loss is. Docs, the command line and the tests read it, so that nothing is told twice."""

from dataclasses import dataclass

__all__ = ["LOSSES", "LossInfo", "markdown_table"]


@dataclass(frozen=True)
class LossInfo:
    """One loss. x is an element of the input (p where it is a probability), y one of the target, t a class index."""

    # The function in losskit.functional and the class in losskit.
    name: str
    module: str
    # "regression", "classification", "multi-label classification", "sequence classification", "ranking",
    # "distributions" or "embedding".
    task: str
    formula: str
    # What input and target hold.
    input: str
    target: str
    # The values that a single loss can take.
    range: str
    unit: str
    # What reduction="mean" divides by.
    mean_over: str
    # Names of losses that are this one in a limit, or compute it from another input.
    relatives: tuple[str, ...]
    source: str
    # Older names of the class that PyTorch still has.
    deprecated_modules: tuple[str, ...] = ()


LOSSES: tuple[LossInfo, ...] = (
    LossInfo(
        name="binary_cross_entropy",
        module="BCELoss",
        task="multi-label classification",
        formula="−y·max(log p, −100) − (1 − y)·max(log(1 − p), −100)",
        input="probabilities in [0, 1]",
        target="[0, 1], shape and dtype of input",
        range="[0, 100]",
        unit="nats",
        mean_over="losses",
        relatives=("binary_cross_entropy_with_logits",),
        source="negative log-likelihood of a Bernoulli variable",
    ),
    LossInfo(
        name="binary_cross_entropy_with_logits",
        module="BCEWithLogitsLoss",
        task="multi-label classification",
        formula="(1 − y)·softplus(x) + w₊·y·softplus(−x)",
        input="logits",
        target="[0, 1], shape of input",
        range="[0, ∞)",
        unit="nats",
        mean_over="losses",
        relatives=("binary_cross_entropy", "cross_entropy"),
        source="negative log-likelihood of a Bernoulli variable",
    ),
    LossInfo(
        name="cosine_embedding_loss",
        module="CosineEmbeddingLoss",
        task="embedding",
        formula="1 − cos(x₁, x₂) where y = 1, max(0, cos(x₁, x₂) − margin) where y = −1",
        input="two vectors (N, D)",
        target="−1 or 1, one per pair",
        range="[0, 2]",
        unit="none",
        mean_over="pairs",
        relatives=("triplet_margin_loss",),
        source="cosine similarity as a score of pairs: Bromley et al. 1993",
    ),
    LossInfo(
        name="cross_entropy",
        module="CrossEntropyLoss",
        task="classification",
        formula="log Σ_c exp(x_c) − x_t",
        input="logits (N, C, …)",
        target="class indices in [0, C), or class probabilities of the shape of input",
        range="[0, ∞)",
        unit="nats",
        mean_over="weight[t] of the samples that count; with probabilities, samples",
        relatives=("nll_loss", "binary_cross_entropy_with_logits"),
        source="negative log-likelihood of a categorical variable; label smoothing: Szegedy et al. 2016, section 7",
    ),
    LossInfo(
        name="ctc_loss",
        module="CTCLoss",
        task="sequence classification",
        formula="−log Σ_π Π_t p_{t, π_t}, π over the alignments of the labels",
        input="log-probabilities (T, N, C)",
        target="labels in [0, C), (N, S) or one sample after another",
        range="[0, ∞]",
        unit="nats",
        mean_over="samples, each loss divided by its number of labels",
        relatives=("nll_loss", "cross_entropy"),
        source="Graves et al. 2006, equations 6 to 8 and 16",
    ),
    LossInfo(
        name="gaussian_nll_loss",
        module="GaussianNLLLoss",
        task="regression",
        formula="(log v + (x − y)²/v)/2, v = max(var, eps)",
        input="any number",
        target="any number, broadcasts; var: ≥ 0",
        range="(−∞, ∞)",
        unit="nats",
        mean_over="losses",
        relatives=("mse_loss",),
        source="Nix and Weigend 1994, equation 5",
    ),
    LossInfo(
        name="hinge_embedding_loss",
        module="HingeEmbeddingLoss",
        task="ranking",
        formula="x where y = 1, max(0, margin − x) where y = −1",
        input="distances",
        target="−1 or 1, broadcasts",
        range="[0, ∞)",
        unit="units of the distance",
        mean_over="losses",
        relatives=("margin_ranking_loss",),
        source="Hadsell, Chopra and LeCun 2006, without the squares",
    ),
    LossInfo(
        name="huber_loss",
        module="HuberLoss",
        task="regression",
        formula="(x − y)²/2 where |x − y| ≤ δ, else δ·(|x − y| − δ/2)",
        input="any number",
        target="any number, shape of input",
        range="[0, ∞)",
        unit="target units squared",
        mean_over="losses, also with weight",
        relatives=("smooth_l1_loss", "mse_loss"),
        source="Huber 1964",
    ),
    LossInfo(
        name="kl_div",
        module="KLDivLoss",
        task="distributions",
        formula="y·(log y − x)",
        input="log-probabilities",
        target="probabilities, or their logarithms, broadcasts",
        range="(−∞, ∞)",
        unit="nats",
        mean_over="losses; batchmean: samples",
        relatives=("cross_entropy",),
        source="Kullback and Leibler 1951",
    ),
    LossInfo(
        name="l1_loss",
        module="L1Loss",
        task="regression",
        formula="|x − y|",
        input="any number",
        target="any number, shape of input",
        range="[0, ∞)",
        unit="target units",
        mean_over="losses, or weight where it is given",
        relatives=("smooth_l1_loss",),
        source="Laplace 1774: its minimum is the median",
    ),
    LossInfo(
        name="linear_cross_entropy",
        module="LinearCrossEntropyLoss",
        task="classification",
        formula="log Σ_c exp(z_c) − z_t, z = x·Wᵀ + b",
        input="features (N, K)",
        target="class indices in [0, C), or class probabilities of the shape of z",
        range="[0, ∞)",
        unit="nats",
        mean_over="weight[t] of the samples that count; with probabilities, samples",
        relatives=("cross_entropy",),
        source="negative log-likelihood of a categorical variable",
    ),
    LossInfo(
        name="margin_ranking_loss",
        module="MarginRankingLoss",
        task="ranking",
        formula="max(0, margin − y·(x₁ − x₂))",
        input="two scores",
        target="−1 or 1, broadcasts",
        range="[0, ∞)",
        unit="units of the scores",
        mean_over="losses",
        relatives=("hinge_embedding_loss", "soft_margin_loss"),
        source="Herbrich, Graepel and Obermayer 1999",
    ),
    LossInfo(
        name="mse_loss",
        module="MSELoss",
        task="regression",
        formula="(x − y)²",
        input="any number",
        target="any number, shape of input",
        range="[0, ∞)",
        unit="target units squared",
        mean_over="losses, or weight where it is given",
        relatives=("huber_loss",),
        source="Legendre 1805: its minimum is the mean",
    ),
    LossInfo(
        name="multi_margin_loss",
        module="MultiMarginLoss",
        task="classification",
        formula="w_t/C·Σ_{c ≠ t} max(0, margin − x_t + x_c)^p",
        input="scores (N, C)",
        target="class indices in [0, C)",
        range="[0, ∞)",
        unit="score units to the power p",
        mean_over="samples, also with weight",
        relatives=("cross_entropy", "multilabel_margin_loss"),
        source="Weston & Watkins 1999",
    ),
    LossInfo(
        name="multilabel_margin_loss",
        module="MultiLabelMarginLoss",
        task="multi-label classification",
        formula="1/C·Σ_{t in y} Σ_{c not in y} max(0, 1 − x_t + x_c)",
        input="scores (N, C)",
        target="lists of class indices that end before a −1, shape of input",
        range="[0, ∞)",
        unit="score units",
        mean_over="samples",
        relatives=("multi_margin_loss", "multilabel_soft_margin_loss"),
        source="Elisseeff & Weston 2001: pairs of a label and a class that is none",
    ),
    LossInfo(
        name="multilabel_soft_margin_loss",
        module="MultiLabelSoftMarginLoss",
        task="multi-label classification",
        formula="1/C·Σ_c w_c·(−y_c·log σ(x_c) − (1 − y_c)·log σ(−x_c))",
        input="scores (…, C)",
        target="[0, 1], shape of input",
        range="[0, ∞)",
        unit="nats",
        mean_over="rows, also with weight",
        relatives=("binary_cross_entropy_with_logits", "multilabel_margin_loss"),
        source="negative log-likelihood of independent Bernoulli variables",
    ),
    LossInfo(
        name="nll_loss",
        module="NLLLoss",
        task="classification",
        formula="−log p_t",
        input="log-probabilities (N, C, …)",
        target="class indices in [0, C)",
        range="[0, ∞)",
        unit="nats",
        mean_over="weight[t] of the samples that count",
        relatives=("cross_entropy",),
        source="negative log-likelihood of a categorical variable",
        deprecated_modules=("NLLLoss2d",),
    ),
    LossInfo(
        name="poisson_nll_loss",
        module="PoissonNLLLoss",
        task="regression",
        formula="exp(x) − y·x, or x − y·log(x + eps)",
        input="log-rates, or rates",
        target="counts, broadcasts",
        range="(−∞, ∞)",
        unit="nats",
        mean_over="losses",
        relatives=("gaussian_nll_loss",),
        source="negative log-likelihood of a Poisson variable",
    ),
    LossInfo(
        name="smooth_l1_loss",
        module="SmoothL1Loss",
        task="regression",
        formula="(x − y)²/2β where |x − y| < β, else |x − y| − β/2",
        input="any number",
        target="any number, shape of input",
        range="[0, ∞)",
        unit="target units",
        mean_over="losses",
        relatives=("huber_loss", "l1_loss"),
        source="Girshick 2015, equation 3, for β = 1",
    ),
    LossInfo(
        name="soft_margin_loss",
        module="SoftMarginLoss",
        task="multi-label classification",
        formula="log(1 + exp(−y·x))",
        input="scores",
        target="−1 or 1, broadcasts to input",
        range="[0, ∞)",
        unit="nats",
        mean_over="losses",
        relatives=("binary_cross_entropy_with_logits",),
        source="logistic regression with labels of −1 and 1",
    ),
    LossInfo(
        name="triplet_margin_loss",
        module="TripletMarginLoss",
        task="embedding",
        formula="max(0, margin + ‖a − p + eps‖ − ‖a − n + eps‖)",
        input="anchor, positive and negative vectors (…, D)",
        target="none: the vectors say it",
        range="[0, ∞)",
        unit="units of the vectors",
        mean_over="triplets",
        relatives=("triplet_margin_with_distance_loss", "cosine_embedding_loss"),
        source="Balntas et al. 2016",
    ),
    LossInfo(
        name="triplet_margin_with_distance_loss",
        module="TripletMarginWithDistanceLoss",
        task="embedding",
        formula="max(0, margin + d(a, p) − d(a, n))",
        input="anchor, positive and negative, as d takes them",
        target="none: the vectors say it",
        range="[0, ∞)",
        unit="units of the distance",
        mean_over="triplets",
        relatives=("triplet_margin_loss",),
        source="Balntas et al. 2016",
    ),
)


def markdown_table() -> str:
    """The table of losses in docs/losses.md.

    **Example**:

    >>> markdown_table().splitlines()[0]
    '| function | class | formula | input | target | unit | mean over |'
    """
    rows = ["| function | class | formula | input | target | unit | mean over |", "|" + "---|" * 7]
    for loss in LOSSES:
        # A bar in a formula would end its cell.
        formula = loss.formula.replace("|", "\\|")
        rows.append(
            f"| `{loss.name}` | `{loss.module}` | {formula} | {loss.input} | {loss.target} | {loss.unit} | "
            f"{loss.mean_over} |"
        )
    return "\n".join(rows) + "\n"
