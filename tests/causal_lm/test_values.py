"""Loss and gradients of a patched model are those of the unpatched one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from fresh_process import output_of
from torch import Tensor

import losskit
from causal_lm.models import CLASSES, MODELS, llama, loss_of_logits, tokens_and_labels


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_as_unpatched(ours: Any, eager: Any, exact: Any, losses: tuple[Tensor, Tensor, Tensor]) -> None:
    """`losses` of the three models; their gradients are there.

    Compared as float32: transformers computes norms and losses in float32, whatever the dtype of the model.
    """
    assert losses[0].dtype == losses[1].dtype
    assert_as_exact(losses[0], losses[2], losses[1], what="loss")
    found, theirs, truth = gradients(ours), gradients(eager), gradients(exact)
    assert found.keys() == theirs.keys() == truth.keys()
    largest = max(float(gradient.abs().max()) for gradient in truth.values())
    for name, gradient in found.items():
        assert gradient.dtype == theirs[name].dtype
        # That by the bias of the keys is 0: a sum of terms that are not.
        scale = max(float(truth[name].abs().max()), 1e-5 * largest)
        assert_as_exact(gradient.float(), truth[name], theirs[name], steps=16, scale=scale, what=f"gradient by {name}")


def of_three(eager: Any) -> tuple[Any, Any, Any]:
    """The patched, the unpatched and the exact model."""
    ours, exact = copy.deepcopy(eager), copy.deepcopy(eager).double()
    return losskit.patch_causal_lm(ours, workspace=4 * CLASSES * 7), eager, exact


@pytest.mark.parametrize("counted", [False, True], ids=["mean", "num_items_in_batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_unpatched_model(name: str, dtype: torch.dtype, counted: bool) -> None:
    ours, eager, exact = of_three(MODELS[name]().to(dtype))
    tokens, labels = tokens_and_labels()
    # Bart has its own mean.
    options = {"num_items_in_batch": torch.tensor(33)} if counted and "not moved" not in name else {}
    losses = (
        ours(tokens, labels=labels, **options).loss,
        eager(tokens, labels=labels, **options).loss,
        loss_of_logits(exact, tokens, labels, 33 if options else None),
    )
    for loss in losses:
        loss.backward()
    assert_as_unpatched(ours, eager, exact, losses)


def test_gradients_of_several_micro_batches_add_up() -> None:
    ours, eager, exact = of_three(llama())
    tokens, labels = tokens_and_labels()
    count = int((labels[:, 1:] != -100).sum())
    totals = [torch.zeros(()) for _ in range(3)]
    for part in range(3):
        x, y = tokens[part : part + 1], labels[part : part + 1]
        losses = (
            ours(x, labels=y, num_items_in_batch=count).loss,
            eager(x, labels=y, num_items_in_batch=count).loss,
            loss_of_logits(exact, x, y, count),
        )
        for number, loss in enumerate(losses):
            loss.backward()
            totals[number] = totals[number] + loss.detach()
    whole = loss_of_logits(copy.deepcopy(exact), tokens, labels)
    assert_as_exact(totals[0], whole, totals[1], what="sum")
    assert_as_unpatched(ours, eager, exact, (totals[0], totals[1], totals[2]))


@pytest.mark.parametrize("option", ["shift_labels", "ignore_index", "logits_to_keep"])
def test_options_of_the_loss_mean_what_they_did(option: str) -> None:
    ours, eager, exact = of_three(llama())
    tokens, labels = tokens_and_labels()
    options: dict[str, Any] = {}
    if option == "shift_labels":
        # Labels of the same positions, whatever `labels` says.
        options["shift_labels"] = labels
        exact_loss = torch.nn.functional.cross_entropy(exact(tokens).logits.flatten(0, 1), labels.flatten())
    elif option == "ignore_index":
        options["ignore_index"] = 7
        exact_loss = loss_of_logits(exact, tokens, labels)
        labels = labels.masked_fill(labels == -100, 7)
    else:
        options["logits_to_keep"] = 5
        labels = labels[:, -5:]
        exact_loss = torch.nn.functional.cross_entropy(
            exact(tokens).logits[:, -5:-1].flatten(0, 1), labels[:, 1:].flatten()
        )
    losses = ours(tokens, labels=labels, **options).loss, eager(tokens, labels=labels, **options).loss, exact_loss
    for loss in losses:
        loss.backward()
    assert_as_unpatched(ours, eager, exact, losses)


def test_half_precision_and_autocast() -> None:
    tokens, labels = tokens_and_labels()
    for autocast in (False, True):
        eager = llama() if autocast else llama().bfloat16()
        ours, eager, exact = of_three(eager)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = ours(tokens, labels=labels).loss, eager(tokens, labels=labels).loss
            eager_logits = eager(tokens).logits
        for loss in losses:
            loss.backward()
        assert losses[0].dtype == losses[1].dtype == torch.float32
        # The hidden states have the digits of bfloat16, in both models the same; ours does not round the logits.
        rounding = float((eager_logits - exact(tokens).logits).detach().abs().max())
        assert rounding > 1e-3
        assert abs(losses[0].item() - losses[1].item()) <= rounding
        for name, gradient in gradients(ours).items():
            theirs = gradients(eager)[name]
            assert gradient.dtype == theirs.dtype
            assert float((gradient - theirs).norm()) <= 0.05 * float(theirs.norm()), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    ours, eager, exact = of_three(llama())
    tokens, labels = tokens_and_labels()
    for model in (ours, eager):
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    losses = ours(tokens, labels=labels).loss, eager(tokens, labels=labels).loss, loss_of_logits(exact, tokens, labels)
    for loss in losses:
        loss.backward()
    assert_as_unpatched(ours, eager, exact, losses)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_the_logits_never_exist_as_a_whole() -> None:
    # In a process of its own: its peak does not come down again. Not that of getrusage, which begins with the parent's.
    code = """
        import torch, transformers, losskit
        torch.set_num_threads(1)
        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        def rise(tokens):
            before = peak()
            model(tokens, labels=tokens, use_cache=False).loss.backward()
            return peak() - before
        config = transformers.LlamaConfig(
            vocab_size=16384, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        model = losskit.patch_causal_lm(transformers.LlamaForCausalLM(config), workspace="2MiB")
        rise(torch.zeros(1, 8, dtype=torch.long))
        tokens = torch.randint(0, 16384, (4, 256))
        patched = rise(tokens)
        losskit.unpatch_causal_lm(model)
        print(patched, rise(tokens))
    """
    patched, unpatched = map(int, output_of(code).split())
    logits = 4 * 4 * 256 * 16384
    assert unpatched > logits
    assert patched < logits / 4
