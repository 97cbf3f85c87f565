"""The one registry of workloads: what is computed, on what data, by whom, and the figures that losskit has to reach.

A. A *workload* names a shape and builds a *problem* from it: seeded inputs, the function of torch.nn.functional and the
   function of losskit. Nothing here runs or times anything.
B. Every workload has a `small_shape` of the same structure. Tests check it; the memory measurement warms up with it.
C. A *target* is one promise about one figure. Missing it is reported and is no error; a wrong value is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import losskit.functional
from losskit.train.network import NUM_CLASSES, classifier

Loss = Callable[..., Tensor]

Figure = Literal["speed_up", "time_ratio", "peak_memory", "value_error_gain", "error_ratio", "loss_share", "seconds"]


@dataclass(frozen=True)
class Target:
    """One promise.

    speed_up: time of `than` / time of `peer`, at least.   time_ratio: time of `peer` / time of `than`, at most.
    peak_memory: extra peak of `peer` in multiples of the loss's input, at most.
    value_error_gain: error of the value of `than` / of `peer`, at least.
    error_ratio: error of `peer` / error of `than`, the largest over the value and the gradient's parts, at most.
    loss_share: time inside the loss / time of the step of `peer`, at most.   seconds: median duration, at most.
    """

    figure: Figure
    limit: float
    peer: str = "losskit"
    than: str = "eager"

    @property
    def at_least(self) -> bool:
        return self.figure in ("speed_up", "value_error_gain")


@dataclass(frozen=True)
class Problem:
    """One loss on its data: `function(produce(*inputs), *constants, **options)`, function being eager or losskit."""

    inputs: Mapping[str, Tensor]
    """The tensors that receive a gradient, by name."""
    constants: tuple[Tensor, ...]
    eager: Loss
    losskit: Loss
    options: Mapping[str, Any] = field(default_factory=dict)
    produce: Loss | None = None
    """Makes the loss's input from `inputs`; None where the one input goes in as it is."""
    grad_outputs: tuple[Tensor | None, Tensor] = (None, torch.tensor(-0.375))
    """The upstream gradient of the timed call, and another one for the check. -0.375 is exact in every dtype."""
    class_target: Tensor | None = None
    """Class indices: the gradient's target column (dimension 1) is then judged apart from the other columns."""
    needs_grad: bool = True
    workspace: int | None = None
    """How many bytes of scores may exist at a time, where the layer is inside the loss. The unit of the memory figures
    then, which leave the gradients out."""

    @property
    def gradient_bytes(self) -> int:
        """What the memory figures leave out."""
        return 0 if self.workspace is None else sum(value.nbytes for value in self.inputs.values())

    @property
    def loss_input_bytes(self) -> int:
        """Size of the loss's input: the unit of the memory figures."""
        if self.workspace is not None:
            return self.workspace
        if self.produce is None:
            return next(iter(self.inputs.values())).nbytes
        with torch.no_grad():
            return self.produce(*self.inputs.values()).nbytes


@dataclass(frozen=True)
class Workload:
    name: str
    description: str
    build: Callable[[tuple[int, ...], int], Problem]
    shape: tuple[int, ...]
    small_shape: tuple[int, ...]
    peers: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    measure_memory: bool = False


@dataclass(frozen=True)
class PackageWorkload:
    """A duration of the package itself: it has no peer and nothing to check."""

    name: str
    description: str
    kind: Literal["import", "build"]
    targets: tuple[Target, ...]


NO_WORSE_ERROR = Target("error_ratio", 1.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# cross entropy and NLL ------------------------------------------------------------------------------------------------


def build_cross_entropy(
    shape: tuple[int, ...], seed: int, *, dtype: torch.dtype = torch.float32, needs_grad: bool = True
) -> Problem:
    """Normal logits (N, C, d1, ...) and uniform class indices (N, d1, ...)."""
    random = generator(seed)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=random)
    return Problem(
        inputs={"logits": torch.randn(shape, generator=random).to(dtype)},
        constants=(target,),
        eager=F.cross_entropy,
        losskit=losskit.functional.cross_entropy,
        class_target=target,
        needs_grad=needs_grad,
    )


def build_cross_entropy_bfloat16(shape: tuple[int, ...], seed: int) -> Problem:
    return build_cross_entropy(shape, seed, dtype=torch.bfloat16)


def build_cross_entropy_no_grad(shape: tuple[int, ...], seed: int) -> Problem:
    return build_cross_entropy(shape, seed, needs_grad=False)


def build_label_smoothing(shape: tuple[int, ...], seed: int) -> Problem:
    problem = build_cross_entropy(shape, seed)
    return replace(problem, options={"label_smoothing": 0.1})


def build_class_weights(shape: tuple[int, ...], seed: int) -> Problem:
    """Weights between 0.5 and 1.5, and one row in ten ignored."""
    problem = build_cross_entropy(shape, seed)
    random = generator(seed + 1)
    weight = 0.5 + torch.rand(shape[1], generator=random)
    (target,) = problem.constants
    ignored = torch.rand(target.shape, generator=random) < 0.1
    # An ignored row has no target column; class 0 stands in for it when the gradient is split, its gradient being zero.
    return replace(
        problem,
        constants=(target.masked_fill(ignored, -100),),
        options={"weight": weight},
        class_target=target.masked_fill(ignored, 0),
    )


def build_probabilities(shape: tuple[int, ...], seed: int) -> Problem:
    problem = build_cross_entropy(shape, seed)
    probabilities = torch.randn(shape, generator=generator(seed + 1)).softmax(1)
    return replace(problem, constants=(probabilities,), class_target=None)


def build_nll(shape: tuple[int, ...], seed: int) -> Problem:
    problem = build_cross_entropy(shape, seed)
    return replace(
        problem,
        inputs={"log_probs": problem.inputs["logits"].log_softmax(1)},
        eager=F.nll_loss,
        losskit=losskit.functional.nll_loss,
    )


def build_ctc(shape: tuple[int, ...], seed: int) -> Problem:
    """Log-probabilities (T, N, C), all frames in use, and targets of a tenth to a quarter as many labels."""
    frames, batch, classes = shape
    random = generator(seed)
    longest = max(frames // 4, 1)
    return Problem(
        inputs={"log_probs": torch.randn(shape, generator=random).log_softmax(2)},
        constants=(
            torch.randint(1, classes, (batch, longest), generator=random),
            torch.full((batch,), frames),
            torch.randint(max(frames // 10, 1), longest + 1, (batch,), generator=random),
        ),
        eager=F.ctc_loss,
        losskit=losskit.functional.ctc_loss,
    )


def build_linear_cross_entropy(shape: tuple[int, ...], seed: int) -> Problem:
    rows, width, classes = shape
    random = generator(seed)
    return Problem(
        inputs={
            "hidden": torch.randn(rows, width, generator=random),
            "projection": torch.randn(classes, width, generator=random) * width**-0.5,
        },
        constants=(torch.randint(classes, (rows,), generator=random),),
        eager=unfused,
        losskit=losskit.functional.linear_cross_entropy,
        workspace=1 << 28,
    )


def unfused(hidden: Tensor, projection: Tensor, target: Tensor, **options: Any) -> Tensor:
    """What F.linear_cross_entropy does without its options: the product, then cross entropy."""
    return F.cross_entropy(multiply(hidden, projection), target, **options)


def build_linear_smoothing(shape: tuple[int, ...], seed: int) -> Problem:
    return replace(build_linear_cross_entropy(shape, seed), options={"label_smoothing": 0.1})


def build_linear_probabilities(shape: tuple[int, ...], seed: int) -> Problem:
    rows, _, classes = shape
    probabilities = torch.randn(rows, classes, generator=generator(seed + 1)).softmax(1)
    return replace(build_linear_cross_entropy(shape, seed), constants=(probabilities,))


def multiply(hidden: Tensor, projection: Tensor) -> Tensor:
    """The output layer of a language model without its bias: (N, D), (C, D) -> logits (N, C)."""
    return hidden @ projection.T


def build_full_step(shape: tuple[int, ...], seed: int) -> Problem:
    rows, width, classes = shape
    random = generator(seed)
    return Problem(
        inputs={
            "hidden": torch.randn(rows, width, generator=random),
            "projection": torch.randn(classes, width, generator=random) * width**-0.5,
        },
        constants=(torch.randint(classes, (rows,), generator=random),),
        eager=F.cross_entropy,
        losskit=losskit.functional.cross_entropy,
        produce=multiply,
    )


def build_digits_step(shape: tuple[int, ...], seed: int) -> Problem:
    """The classifier of `losskit train` on a batch of images, forward and backward, with a criterion module.

    The gradient that is checked is the one by the scores: what the convolutions round is no matter of the loss.
    """
    random = generator(seed)
    images, labels = torch.randn(shape, generator=random), torch.randint(NUM_CLASSES, shape[:1], generator=random)
    network = classifier(seed)

    def scores(offset: Tensor) -> Tensor:
        made: Tensor = network(images) + offset
        return made

    return Problem(
        inputs={"scores": 0.01 * torch.randn(len(images), NUM_CLASSES, generator=random)},
        constants=(labels,),
        eager=torch.nn.CrossEntropyLoss(),
        losskit=losskit.CrossEntropyLoss(),
        produce=scores,
    )


# pointwise ------------------------------------------------------------------------------------------------------------


def pointwise_builder(
    eager: Loss, ours: Loss, domain: str, reduction: str
) -> Callable[[tuple[int, ...], int], Problem]:
    """Normal input, its sigmoid for the domain "probability"; a normal target, one uniform in [0, 1) for the BCEs."""

    def build(shape: tuple[int, ...], seed: int) -> Problem:
        random = generator(seed)
        values = torch.randn(shape, generator=random)
        target = torch.randn(shape, generator=random) if domain == "real" else torch.rand(shape, generator=random)
        scalar = (None, torch.tensor(-0.375))
        uneven = (torch.rand(shape, generator=random), torch.randn(shape, generator=random))
        return Problem(
            inputs={"input": values.sigmoid() if domain == "probability" else values},
            constants=(target,),
            eager=eager,
            losskit=ours,
            options={} if reduction == "mean" else {"reduction": reduction},
            grad_outputs=uneven if reduction == "none" else scalar,
        )

    return build


POINTWISE: tuple[tuple[str, Loss, Loss, str, float], ...] = (
    ("mse", F.mse_loss, losskit.functional.mse_loss, "real", 12),
    ("l1", F.l1_loss, losskit.functional.l1_loss, "real", 14),
    ("smooth_l1", F.smooth_l1_loss, losskit.functional.smooth_l1_loss, "real", 10),
    ("huber", F.huber_loss, losskit.functional.huber_loss, "real", 10),
    ("bce", F.binary_cross_entropy, losskit.functional.binary_cross_entropy, "probability", 18),
    (
        "bce_with_logits",
        F.binary_cross_entropy_with_logits,
        losskit.functional.binary_cross_entropy_with_logits,
        "logit",
        22,
    ),
)


def pointwise_workloads() -> list[Workload]:
    found = []
    for name, eager, ours, domain, speed_up in POINTWISE:
        for size, label, reduction in (
            (10**7, "1e7", "mean"),
            (10**7, "1e7", "none"),
            (10**5, "1e5", "mean"),
            (10**3, "1e3", "mean"),
        ):
            large = size == 10**7
            wanted = 1.0 if not large else speed_up if reduction == "mean" else 4.0
            compiled = ("compile",) if large and reduction == "mean" else ()
            found.append(
                Workload(
                    name=f"{name}_{label}_{reduction}",
                    description=f"{eager.__name__}, {size:,} float32 elements, reduction {reduction!r}",
                    build=pointwise_builder(eager, ours, domain, reduction),
                    shape=(size,),
                    small_shape=(min(size, 1009),),
                    peers=("losskit", "eager", *compiled, *(("copy",) if large else ())),
                    targets=(Target("speed_up", wanted), NO_WORSE_ERROR),
                    measure_memory=large,
                )
            )
    return found


# a loss per row -------------------------------------------------------------------------------------------------------


def build_multi_margin(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={"input": torch.randn(shape, generator=random)},
        constants=(torch.randint(shape[1], shape[:1], generator=random),),
        eager=F.multi_margin_loss,
        losskit=losskit.functional.multi_margin_loss,
    )


def build_multilabel_margin(shape: tuple[int, ...], seed: int) -> Problem:
    """Lists of one to eight different classes."""
    random = generator(seed)
    labels = min(8, shape[1] - 1)
    # Neighbours, round the end: no class twice.
    first = torch.randint(shape[1], (shape[0], 1), generator=random)
    lists = (first + torch.arange(labels)) % shape[1]
    length = torch.randint(1, labels + 1, (shape[0], 1), generator=random)
    target = torch.full(shape, -1)
    target[:, :labels] = lists.masked_fill(torch.arange(labels) >= length, -1)
    return Problem(
        inputs={"input": torch.randn(shape, generator=random)},
        constants=(target,),
        eager=F.multilabel_margin_loss,
        losskit=losskit.functional.multilabel_margin_loss,
    )


def build_multilabel_soft_margin(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={"input": torch.randn(shape, generator=random)},
        constants=((torch.rand(shape, generator=random) < 0.1).float(),),
        eager=F.multilabel_soft_margin_loss,
        losskit=losskit.functional.multilabel_soft_margin_loss,
    )


def build_cosine_embedding(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={name: torch.randn(shape, generator=random) for name in ("input1", "input2")},
        constants=(torch.randint(2, shape[:1], generator=random).float() * 2 - 1,),
        eager=F.cosine_embedding_loss,
        losskit=losskit.functional.cosine_embedding_loss,
    )


def build_triplet_margin(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={name: torch.randn(shape, generator=random) for name in ("anchor", "positive", "negative")},
        constants=(),
        eager=F.triplet_margin_loss,
        losskit=losskit.functional.triplet_margin_loss,
    )


ROWS: tuple[tuple[str, Callable[[tuple[int, ...], int], Problem]], ...] = (
    ("multi_margin", build_multi_margin),
    ("multilabel_margin", build_multilabel_margin),
    ("multilabel_soft_margin", build_multilabel_soft_margin),
    ("cosine_embedding", build_cosine_embedding),
    ("triplet_margin", build_triplet_margin),
)


def row_workloads() -> list[Workload]:
    return [
        Workload(
            name=f"{name}_{rows}x{width}",
            description=f"{name}_loss, {rows:,}x{width} float32",
            build=build,
            shape=(rows, width),
            small_shape=(min(rows, 63), 11),
            peers=("losskit", "eager"),
            targets=(Target("speed_up", limit), NO_WORSE_ERROR),
        )
        for name, build in ROWS
        for rows, width, limit in ((100_000, 128, 6.0), (100, 10, 1.0))
    ]


# several tensors, one loss per element --------------------------------------------------------------------------------


def signs(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=random) - 1


def build_soft_margin(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={"input": torch.randn(shape, generator=random)},
        constants=(signs(shape, random),),
        eager=F.soft_margin_loss,
        losskit=losskit.functional.soft_margin_loss,
    )


def build_hinge_embedding(shape: tuple[int, ...], seed: int) -> Problem:
    problem = build_soft_margin(shape, seed)
    return replace(problem, eager=F.hinge_embedding_loss, losskit=losskit.functional.hinge_embedding_loss)


def build_margin_ranking(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    return Problem(
        inputs={"input1": torch.randn(shape, generator=random), "input2": torch.randn(shape, generator=random)},
        constants=(signs(shape, random),),
        eager=F.margin_ranking_loss,
        losskit=losskit.functional.margin_ranking_loss,
        options={"margin": 0.5},
    )


def build_kl_div(shape: tuple[int, ...], seed: int) -> Problem:
    """The divergence as it is defined: "mean" would warn in every call."""
    random = generator(seed)
    return Problem(
        inputs={"input": torch.rand(shape, generator=random).log()},
        constants=(torch.rand(shape, generator=random),),
        eager=F.kl_div,
        losskit=losskit.functional.kl_div,
        options={"reduction": "batchmean"},
    )


def build_poisson_nll(shape: tuple[int, ...], seed: int) -> Problem:
    random = generator(seed)
    rates = torch.rand(shape, generator=random) * 4
    return Problem(
        inputs={"input": torch.randn(shape, generator=random)},
        constants=(torch.poisson(rates, generator=random),),
        eager=F.poisson_nll_loss,
        losskit=losskit.functional.poisson_nll_loss,
    )


def build_gaussian_nll(shape: tuple[int, ...], seed: int) -> Problem:
    """Expectation and variance are outputs of a network; the target lies between them in the call."""
    random = generator(seed)

    def reordered(function: Loss) -> Loss:
        return lambda input, var, target, **options: function(input, target, var, **options)

    return Problem(
        inputs={"input": torch.randn(shape, generator=random), "var": 0.1 + torch.rand(shape, generator=random)},
        constants=(torch.randn(shape, generator=random),),
        eager=reordered(F.gaussian_nll_loss),
        losskit=reordered(losskit.functional.gaussian_nll_loss),
    )


SEVERAL: tuple[tuple[str, Callable[[tuple[int, ...], int], Problem], float], ...] = (
    ("soft_margin", build_soft_margin, 20),
    ("hinge_embedding", build_hinge_embedding, 15),
    ("margin_ranking", build_margin_ranking, 6),
    ("kl_div", build_kl_div, 25),
    ("poisson_nll", build_poisson_nll, 30),
    ("gaussian_nll", build_gaussian_nll, 30),
)


def several_workloads() -> list[Workload]:
    return [
        Workload(
            name=f"{name}_{label}",
            description=f"{name}, {size:,} float32 elements",
            build=build,
            shape=(size,),
            small_shape=(min(size, 1009),),
            peers=("losskit", "eager"),
            targets=(Target("speed_up", speed_up if size == 10**7 else 1.0), NO_WORSE_ERROR),
            measure_memory=size == 10**7,
        )
        for name, build, speed_up in SEVERAL
        for size, label in ((10**7, "1e7"), (10**3, "1e3"))
    ]


def small_cross_entropy(rows: int, classes: int, limit: float) -> Workload:
    return Workload(
        name=f"cross_entropy_{rows}x{classes}",
        description=f"cross entropy {rows}x{classes} float32: the cost of a call",
        build=build_cross_entropy,
        shape=(rows, classes),
        small_shape=(rows, classes),
        peers=("losskit", "eager"),
        targets=(Target("time_ratio", limit), NO_WORSE_ERROR),
    )


def linear_workloads() -> tuple[Workload, ...]:
    """The output layer of a language model with its loss; the targets hold for the shape that they were set on."""
    peers = ("losskit", "eager", "chunked", "compile", "products")
    figures = {
        "linear_cross_entropy": (4096, 512, 32000),
        "linear_cross_entropy_128256": (2048, 1024, 128256),
        "linear_cross_entropy_16384": (16384, 512, 32000),
    }
    faster = (
        Target("time_ratio", 1.05, than="products"),
        Target("speed_up", 2.0, than="chunked"),
        Target("speed_up", 2.5),
    )
    memory = Target("peak_memory", 1.3)
    plain = tuple(
        Workload(
            name=name,
            description="linear_cross_entropy {}x{}, {} classes, float32; chunked: torch's".format(*shape),
            build=build_linear_cross_entropy,
            shape=shape,
            small_shape=(7, 16, 61),
            peers=peers,
            targets=(*faster, memory, NO_WORSE_ERROR),
            measure_memory=True,
        )
        for name, shape in figures.items()
    )
    # torch has no chunks for these.
    others = tuple(
        Workload(
            name=f"linear_cross_entropy_{name}",
            description=f"linear_cross_entropy 4096x512, 32000 classes, float32, {description}",
            build=build,
            shape=(4096, 512, 32000),
            small_shape=(7, 16, 61),
            peers=("losskit", "eager", "products"),
            targets=(memory, NO_WORSE_ERROR),
            measure_memory=True,
        )
        for name, description, build in (
            ("smoothing", "label_smoothing=0.1", build_linear_smoothing),
            ("probabilities", "targets are probabilities", build_linear_probabilities),
        )
    )
    return *plain, *others


WORKLOADS: tuple[Workload | PackageWorkload, ...] = (
    Workload(
        name="cross_entropy_vocab",
        description="cross entropy 2048x32000 float32, a language model's vocabulary",
        build=build_cross_entropy,
        shape=(2048, 32000),
        small_shape=(7, 507),
        peers=("losskit", "inplace", "eager", "compile", "copy"),
        targets=(
            Target("speed_up", 14),
            Target("speed_up", 6, than="compile"),
            Target("time_ratio", 1.4, than="copy"),
            Target("speed_up", 18, peer="inplace"),
            Target("peak_memory", 1.1),
            Target("peak_memory", 0.1, peer="inplace"),
            NO_WORSE_ERROR,
        ),
        measure_memory=True,
    ),
    Workload(
        name="cross_entropy_vocab_compiled",
        description="the same under torch.compile; compiled: losskit's function in a graph, compile: eager's",
        build=build_cross_entropy,
        shape=(2048, 32000),
        small_shape=(63, 1024),
        peers=("losskit", "compiled", "eager", "compile"),
        targets=(
            Target("time_ratio", 1.1, peer="compiled", than="losskit"),
            Target("speed_up", 6, peer="compiled", than="compile"),
            NO_WORSE_ERROR,
        ),
    ),
    Workload(
        name="cross_entropy_vocab_bfloat16",
        description="the same in bfloat16; float32_out asks for out_dtype=torch.float32",
        build=build_cross_entropy_bfloat16,
        shape=(2048, 32000),
        small_shape=(7, 507),
        peers=("losskit", "float32_out", "eager", "compile", "copy"),
        targets=(
            Target("speed_up", 8),
            Target("value_error_gain", 1e4, peer="float32_out"),
            NO_WORSE_ERROR,
        ),
        measure_memory=True,
    ),
    Workload(
        name="cross_entropy_segmentation",
        description="cross entropy 8x21x512x512 float32, a segmentation map",
        build=build_cross_entropy,
        shape=(8, 21, 512, 512),
        small_shape=(2, 21, 9, 7),
        peers=("losskit", "eager", "compile", "copy"),
        targets=(Target("speed_up", 14), NO_WORSE_ERROR),
        measure_memory=True,
    ),
    Workload(
        name="cross_entropy_1000000x10",
        description="cross entropy 1,000,000x10 float32, many rows of few classes",
        build=build_cross_entropy,
        shape=(1_000_000, 10),
        small_shape=(1023, 10),
        peers=("losskit", "eager", "compile", "copy"),
        targets=(Target("speed_up", 18), NO_WORSE_ERROR),
        measure_memory=True,
    ),
    Workload(
        name="full_step",
        description="h@W.T -> cross entropy -> backward, 2048x512, 32000 classes; products: without the loss",
        build=build_full_step,
        shape=(2048, 512, 32000),
        small_shape=(7, 16, 61),
        peers=("losskit", "inplace", "eager", "products"),
        targets=(Target("speed_up", 1.6), Target("loss_share", 0.03), NO_WORSE_ERROR),
        measure_memory=True,
    ),
    Workload(
        name="watch_digits_step",
        description="a step of the classifier of losskit train, 64 images; watched: with losskit.watch(criterion)",
        build=build_digits_step,
        shape=(64, 3, 32, 32),
        small_shape=(5, 3, 32, 32),
        peers=("losskit", "watched", "eager"),
        targets=(Target("time_ratio", 1.05, peer="watched", than="losskit"), NO_WORSE_ERROR),
    ),
    small_cross_entropy(4, 10, 0.85),
    small_cross_entropy(64, 10, 0.85),
    small_cross_entropy(128, 100, 0.8),
    Workload(
        name="cross_entropy_4x10_no_grad",
        description="cross entropy 4x10 float32 on logits that need no gradient: forward only",
        build=build_cross_entropy_no_grad,
        shape=(4, 10),
        small_shape=(4, 10),
        peers=("losskit", "eager"),
        targets=(Target("time_ratio", 0.5), NO_WORSE_ERROR),
    ),
    *(
        Workload(
            name=name,
            description=description,
            build=build,
            shape=(4096, 1000),
            small_shape=(63, 11),
            peers=("losskit", "eager", "copy"),
            targets=(NO_WORSE_ERROR,),
        )
        for name, description, build in (
            ("cross_entropy_smoothing", "cross entropy 4096x1000, label_smoothing=0.1", build_label_smoothing),
            ("cross_entropy_weight", "cross entropy 4096x1000, class weights, a tenth ignored", build_class_weights),
            ("cross_entropy_probabilities", "cross entropy 4096x1000, targets are probabilities", build_probabilities),
            ("nll", "nll_loss 4096x1000 on log-probabilities", build_nll),
        )
    ),
    *linear_workloads(),
    Workload(
        name="ctc_200x64x1000",
        description="ctc_loss, 200 frames, 64 samples, 1000 classes, 20 to 50 labels, float32",
        build=build_ctc,
        shape=(200, 64, 1000),
        small_shape=(20, 3, 11),
        peers=("losskit", "eager", "copy"),
        targets=(Target("speed_up", 6), NO_WORSE_ERROR),
        measure_memory=True,
    ),
    Workload(
        name="ctc_50x4x20",
        description="ctc_loss, 50 frames, 4 samples, 20 classes, 5 to 12 labels, float32: the cost of a call",
        build=build_ctc,
        shape=(50, 4, 20),
        small_shape=(50, 4, 20),
        peers=("losskit", "eager"),
        targets=(Target("speed_up", 1.5), NO_WORSE_ERROR),
    ),
    *pointwise_workloads(),
    *row_workloads(),
    *several_workloads(),
    PackageWorkload(
        "import", "import losskit after import torch, in a new process", "import", (Target("seconds", 0.050),)
    ),
    PackageWorkload(
        "build", "pip install . in an isolated build (only with --build)", "build", (Target("seconds", 60.0),)
    ),
)
