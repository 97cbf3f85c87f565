"""A patched model in the Trainer of transformers ends where an unpatched one does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import losskit
from causal_lm.models import CLASSES, llama

pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")


def examples(count: int) -> list[dict[str, list[int]]]:
    """Sequences of several lengths; the batches are padded with −100."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for number in range(count):
        tokens = torch.randint(3, CLASSES, (4 + number % 5,), generator=generator).tolist()
        found.append({"input_ids": tokens, "labels": [-100, *tokens[1:]]})
    return found


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    length = max(len(example["input_ids"]) for example in batch)
    return {
        name: torch.tensor([example[name] + [filler] * (length - len(example[name])) for example in batch])
        for name, filler in (("input_ids", 0), ("labels", -100))
    }


def trained(model: Any, folder: Path, **more: Any) -> Any:
    options = hf.TrainingArguments(
        str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = hf.Trainer(model, options, train_dataset=examples(30), data_collator=padded, **more)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_same_steps(tmp_path: Path) -> None:
    eager = llama()
    ours = losskit.patch_causal_lm(copy.deepcopy(eager))
    start = copy.deepcopy(eager)
    theirs, found = losses(trained(eager, tmp_path)), losses(trained(ours, tmp_path))
    assert len(found) == 4
    assert found == pytest.approx(theirs, rel=1e-5)
    assert ours(torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).logits is None
    for (name, a), b, c in zip(ours.named_parameters(), eager.parameters(), start.parameters(), strict=True):
        moved = float((b - c).detach().norm())
        assert moved > 0
        # Adam divides each gradient by its size: a difference of a rounding stays one in all but few weights.
        assert float((a - b).detach().norm()) < 1e-3 * moved, name


def test_metrics_get_their_logits(tmp_path: Path) -> None:
    shapes = []

    def metrics(prediction: Any) -> dict[str, float]:
        shapes.append(prediction.predictions.shape)
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    model = losskit.patch_causal_lm(llama(), eval_logits=True)
    trainer = trained(model, tmp_path, eval_dataset=examples(5)[:1] * 2, compute_metrics=metrics)
    result = trainer.evaluate()
    assert shapes == [(2, 4, CLASSES)]
    assert 0 <= result["eval_accuracy"] <= 1
    expected = model(**padded(examples(5)[:1] * 2), return_logits=True).loss
    assert result["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
