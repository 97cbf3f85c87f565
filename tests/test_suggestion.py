"""`losskit.suggest`: the words of a user lead to the losses of the catalog."""

import re
from pathlib import Path

import pytest

import losskit
from losskit.catalog import LOSSES
from losskit.suggestion import Suggestion, markdown
from losskit.tasks import TASKS

CATALOG = {info.name: info for info in LOSSES}


@pytest.mark.parametrize(
    ("asked", "task", "first"),
    [
        ("segmentation", "segmentation", "cross_entropy"),
        ("image segmentation", "segmentation", "cross_entropy"),
        ("Semantic Segmentation with a U-Net", "segmentation", "cross_entropy"),
        ("object detection boxes", "object detection", "smooth_l1_loss"),
        ("bounding box", "object detection", "smooth_l1_loss"),
        ("language model", "language model", "cross_entropy"),
        ("next token prediction", "language model", "cross_entropy"),
        ("LLM", "language model", "cross_entropy"),
        ("multi-label", "multi-label classification", "binary_cross_entropy_with_logits"),
        ("multilabel tags", "multi-label classification", "binary_cross_entropy_with_logits"),
        ("counts", "counts", "poisson_nll_loss"),
        ("how many events", "counts", "poisson_nll_loss"),
        ("speech", "sequence classification", "ctc_loss"),
        ("speech recognition", "sequence classification", "ctc_loss"),
        ("retrieval", "embedding", "triplet_margin_loss"),
        ("face recognition", "embedding", "triplet_margin_loss"),
        ("regression with outliers", "regression with outliers", "huber_loss"),
        ("predict a price with outliers", "regression with outliers", "huber_loss"),
        ("regress", "regression", "mse_loss"),
        ("predict a price", "regression", "mse_loss"),
        ("uncertainty", "uncertainty", "gaussian_nll_loss"),
        ("classify images", "classification", "cross_entropy"),
        ("binary", "binary classification", "binary_cross_entropy_with_logits"),
        ("detect anomalies", "imbalanced classes", "cross_entropy"),
        ("named entity recognition", "token classification", "cross_entropy"),
        ("knowledge distillation", "distributions", "kl_div"),
        ("learning to rank", "ranking", "margin_ranking_loss"),
        ("siamese pairs", "same or different", "hinge_embedding_loss"),
        ("GAN", "generative adversarial network", "binary_cross_entropy_with_logits"),
        ("super-resolution", "reconstruction", "l1_loss"),
        ("DQN", "reinforcement learning", "huber_loss"),
    ],
)
def test_words_of_a_user(asked: str, task: str, first: str) -> None:
    found = losskit.suggest(asked)
    assert (found.task, found[0].loss) == (task, first)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_word_of_the_table_finds_its_task(task: object) -> None:
    name, phrases = task.name, task.phrases  # type: ignore[attr-defined]
    assert {phrase: losskit.suggest(phrase).task for phrase in phrases} == dict.fromkeys(phrases, name)


def test_every_task_of_the_catalog_is_known_and_every_loss_is_suggested() -> None:
    for info in LOSSES:
        assert losskit.suggest(info.task).task == info.task
    suggested = {name for task in TASKS for name, _ in task.losses}
    assert suggested == set(CATALOG)


def test_suggestions_tell_what_the_catalog_tells() -> None:
    for task in TASKS:
        for one, (name, why) in zip(losskit.suggest(task.name), task.losses, strict=True):
            info = CATALOG[name]
            assert one == Suggestion(
                info.name,
                info.module,
                why,
                info.output_layer,
                info.target,
                info.target_dtype,
                info.outliers,
                info.try_next,
            )
            assert not why.endswith(".")


def test_printed() -> None:
    found = losskit.suggest("counts")
    assert repr(found) == str(found)
    assert str(found).startswith(
        "counts:\n\n1. poisson_nll_loss (PoissonNLLLoss): whole numbers from 0: the model says the logarithm of their "
        "rate\n   output layer  none: the logarithm of a rate\n"
    )
    assert "\n\n2. mse_loss (MSELoss): " in str(found)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("segmantation", "suggest: task 'segmantation' is not known. Did you mean 'segmentation'?"),
        ("retreival", "suggest: task 'retreival' is not known. Did you mean 'retrieval'?"),
        (
            "blockchain",
            f"suggest: task 'blockchain' is not known. There are {', '.join(task.name for task in TASKS)}.",
        ),
        ("", f"suggest: task '' is not known. There are {', '.join(task.name for task in TASKS)}."),
    ],
)
def test_unknown_tasks(task: str, message: str) -> None:
    with pytest.raises(losskit.LosskitError) as caught:
        losskit.suggest(task)
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)


def test_a_task_that_is_no_text() -> None:
    with pytest.raises(TypeError, match=r"^suggest: task must be words such as 'segmentation', got int\.$"):
        losskit.suggest(3)  # type: ignore[arg-type]


def test_the_page_is_what_the_table_says() -> None:
    page = (Path(__file__).parents[1] / "docs" / "which-loss.md").read_text("utf-8")
    head, rest = page.split("\n## ", 1)
    assert f"## {rest}" == markdown()
    assert "losskit.suggest" in head
    assert len(re.findall("^## ", markdown(), re.MULTILINE)) == len(TASKS)


def test_words_that_are_said_again_change_nothing() -> None:
    assert losskit.suggest("image segmentation " * 20_000) == losskit.suggest("image segmentation")
