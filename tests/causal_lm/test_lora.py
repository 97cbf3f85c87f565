"""Models with adapters of peft, on their layers and on their head."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import losskit
from causal_lm.models import CLASSES, llama, tokens_and_labels

peft = pytest.importorskip("peft", reason="peft is not installed")


def adapted(model: Any, **options: Any) -> Any:
    torch.manual_seed(4)
    config = peft.LoraConfig(r=3, task_type="CAUSAL_LM", init_lora_weights=False, **options)
    with warnings.catch_warnings():
        # On tied embeddings peft says what merging would mean.
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)


def assert_same_loss_and_gradients(ours: Any, eager: Any) -> None:
    tokens, labels = tokens_and_labels()
    found = []
    for model in (ours, eager):
        # Dropout draws the same numbers in both.
        torch.manual_seed(5)
        output = model(input_ids=tokens, labels=labels, num_items_in_batch=20)
        output.loss.backward()
        found.append((output.loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        assert (output.logits is None) == (model is ours)
    (loss, gradients), (expected, theirs) = found
    torch.testing.assert_close(loss, expected)
    assert len(gradients) > 3
    torch.testing.assert_close(gradients, theirs, rtol=1e-4, atol=1e-6)
    logits = ours(input_ids=tokens, labels=labels, return_logits=True).logits
    assert logits.shape == (*tokens.shape, CLASSES)


@pytest.mark.parametrize("first", ["patch", "adapters"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "lm_head"], "lora_dropout": 0.5},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["layers", "head", "head with dropout", "head trained"],
)
def test_adapters(options: dict[str, Any], first: str) -> None:
    eager = adapted(llama(), **options).train()
    if first == "patch":
        ours = adapted(losskit.patch_causal_lm(llama()), **options).train()
    else:
        ours = losskit.patch_causal_lm(adapted(llama(), **options)).train()
    assert_same_loss_and_gradients(ours, eager)
    with ours.disable_adapter(), eager.disable_adapter():
        tokens, labels = tokens_and_labels()
        output = ours(input_ids=tokens, labels=labels)
        assert output.logits is None
        torch.testing.assert_close(output.loss, eager(input_ids=tokens, labels=labels).loss)


def test_merging_leaves_a_patched_model() -> None:
    ours = adapted(losskit.patch_causal_lm(llama()), target_modules=["q_proj", "lm_head"])
    eager = adapted(llama(), target_modules=["q_proj", "lm_head"])
    tokens, labels = tokens_and_labels()
    merged = ours.merge_and_unload()
    output = merged(tokens, labels=labels)
    assert output.logits is None
    torch.testing.assert_close(output.loss, copy.deepcopy(eager)(input_ids=tokens, labels=labels).loss)


def test_a_variant_of_lora_that_is_no_sum_gets_its_logits() -> None:
    options = {"target_modules": ["lm_head"], "use_dora": True}
    ours, eager = losskit.patch_causal_lm(adapted(llama(), **options)), adapted(llama(), **options)
    tokens, labels = tokens_and_labels()
    with pytest.warns(UserWarning, match=r"^patch_causal_lm: PeftModelForCausalLM computes all its logits, .*variant"):
        loss = ours(input_ids=tokens, labels=labels).loss
    assert torch.equal(loss, eager(input_ids=tokens, labels=labels).loss)
