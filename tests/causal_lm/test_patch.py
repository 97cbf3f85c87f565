"""What a patched model returns, what it stays, and how it becomes what it was."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import losskit
from causal_lm.models import CLASSES, llama, tokens_and_labels
from losskit.causal_lm.head import state


def is_patched(model: Any) -> bool:
    tokens, labels = tokens_and_labels()
    with torch.no_grad():
        return model(tokens, labels=labels).logits is None


# what a call returns --------------------------------------------------------------------------------------------------


def test_logits_on_request_and_without_labels_alone() -> None:
    eager = llama()
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    tokens, labels = tokens_and_labels()
    expected = eager(tokens, labels=labels)
    asked = model(tokens, labels=labels, return_logits=True)
    assert torch.equal(asked.logits, expected.logits)
    assert torch.equal(asked.loss, expected.loss)
    assert torch.equal(model(tokens).logits, expected.logits)
    assert model(tokens).loss is None
    output = model(tokens, labels=labels, output_hidden_states=True)
    assert output.logits is None
    assert type(output) is type(expected)
    assert list(output) == ["loss", "past_key_values", "hidden_states"]
    assert torch.equal(output.hidden_states[-1], eager(tokens, output_hidden_states=True).hidden_states[-1])
    # By place, and as a tuple.
    assert torch.equal(model(tokens, None, None, None, None, labels).loss, output.loss)
    loss, logits, *_ = model(tokens, labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert logits is None


def test_evaluation() -> None:
    eager = llama()
    model = losskit.patch_causal_lm(copy.deepcopy(eager), eval_logits=True)
    tokens, labels = tokens_and_labels()
    with torch.no_grad():
        assert torch.equal(model(tokens, labels=labels).logits, eager(tokens).logits)
        assert model(tokens, labels=labels, return_logits=False).logits is None
        assert model.train()(tokens, labels=labels).logits is None
        assert not model(tokens, labels=labels).loss.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens, labels=labels).loss, eager(tokens, labels=labels).loss)


def test_generate() -> None:
    eager = llama()
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    tokens, _ = tokens_and_labels()
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    assert torch.equal(model.generate(tokens, **options), eager.generate(tokens, **options))


def test_the_signature_is_the_models_and_return_logits() -> None:
    names = list(inspect.signature(llama().forward).parameters)
    found = list(inspect.signature(losskit.patch_causal_lm(llama()).forward).parameters)
    assert found == [*names[:-1], "return_logits", names[-1]]


# what it stays --------------------------------------------------------------------------------------------------------


def test_this_object_alone_changes(tmp_path: Path) -> None:
    model, other = llama(), llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forward = hf.LlamaForCausalLM.forward
    assert losskit.patch_causal_lm(model) is model
    assert type(model) is hf.LlamaForCausalLM
    assert type(model).forward is forward
    assert type(model.lm_head).forward is nn.Linear.forward
    assert is_patched(model)
    assert not is_patched(other)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.load_state_dict(before) is not None
    model.save_pretrained(tmp_path)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is hf.LlamaForCausalLM
    assert not is_patched(loaded)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def saved_and_loaded(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded])
def test_copies_and_pickles_are_patched_and_their_own(copied: Any) -> None:
    model = losskit.patch_causal_lm(llama(tie_word_embeddings=True), eval_logits=True)
    twin = copied(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
        tokens, labels = tokens_and_labels()
        loss = twin.train()(tokens, labels=labels)
        assert loss.logits is None
        # Of equal logits.
        torch.testing.assert_close(loss.loss, torch.tensor(float(CLASSES)).log())
        assert model.train()(tokens, labels=labels).loss > 1.1 * loss.loss
    losskit.unpatch_causal_lm(twin)
    assert is_patched(model)
    assert "forward" not in {*vars(twin), *vars(twin.lm_head)}
    assert model.forward.eval_logits


def test_twice_is_once() -> None:
    model = losskit.patch_causal_lm(losskit.patch_causal_lm(llama()), workspace="1MiB", eval_logits=True)
    assert model.forward.workspace == "1MiB"
    assert not is_patched(model)
    assert is_patched(model.train())
    losskit.unpatch_causal_lm(model)
    assert not is_patched(model)


def test_unpatched_and_patched_again() -> None:
    model = losskit.patch_causal_lm(llama(), workspace="1MiB")
    with losskit.unpatch_causal_lm(model):
        assert not is_patched(model)
        assert "forward" not in {*vars(model), *vars(model.lm_head)}
    assert is_patched(model)
    assert model.forward.workspace == "1MiB"
    with pytest.raises(ZeroDivisionError), losskit.unpatch_causal_lm(model):
        raise ZeroDivisionError
    assert is_patched(model)
    losskit.unpatch_causal_lm(model)
    # Not patched: nothing to do, in a block neither.
    with losskit.unpatch_causal_lm(model):
        assert not is_patched(model)
    assert not is_patched(model)


def test_an_exception_in_the_forward_leaves_nothing_behind() -> None:
    model = losskit.patch_causal_lm(llama())
    tokens, labels = tokens_and_labels()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    handle = model.model.norm.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model(tokens, labels=labels)
    handle.remove()
    assert state.call is None
    assert model.lm_head(torch.zeros(1, 16)).shape == (1, CLASSES)
    with pytest.raises(IndexError, match=r"^linear_cross_entropy: "):
        model(tokens, labels=labels + CLASSES)
    assert state.call is None
    assert is_patched(model)


def test_threads() -> None:
    model = losskit.patch_causal_lm(llama())
    tokens, labels = tokens_and_labels()
    expected = model(tokens, labels=labels, return_logits=True)
    inside, wrong = threading.Barrier(2), []

    def meet(*_: Any) -> None:
        # Both are between their start and their head.
        inside.wait(timeout=60)

    def with_labels() -> None:
        for _ in range(5):
            output = model(tokens, labels=labels)
            if output.logits is not None or not torch.allclose(output.loss, expected.loss):
                wrong.append(output)

    def without() -> None:
        for _ in range(5):
            if not torch.equal(model(tokens).logits, expected.logits):
                wrong.append("logits")

    handle = model.model.norm.register_forward_hook(meet)
    threads = [threading.Thread(target=run) for run in (with_labels, without)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert wrong == []


# other ways to hold or run a model ------------------------------------------------------------------------------------


def test_the_vocabulary_is_resized_later() -> None:
    model = losskit.patch_causal_lm(llama())
    model.resize_token_embeddings(CLASSES + 5, mean_resizing=False)
    tokens, labels = tokens_and_labels()
    output = model(tokens, labels=labels + 5 * (labels > 0))
    assert output.logits is None
    torch.testing.assert_close(output.loss, model(tokens, labels=labels + 5 * (labels > 0), return_logits=True).loss)


def test_torch_compile() -> None:
    eager = llama()
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    tokens, labels = tokens_and_labels()
    output = torch.compile(model, backend="eager", fullgraph=True)(tokens, labels=labels, use_cache=False)
    assert output.logits is None
    output.loss.backward()
    loss = eager(tokens, labels=labels).loss
    loss.backward()
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(model.lm_head.weight.grad, eager.lm_head.weight.grad)


def test_with_the_losses_of_torch_replaced() -> None:
    model = losskit.patch_causal_lm(llama())
    tokens, labels = tokens_and_labels()
    expected = model(tokens, labels=labels).loss
    with losskit.replace_torch_losses():
        output = model(tokens, labels=labels)
    assert output.logits is None
    assert torch.equal(output.loss, expected)


def test_a_forward_that_accelerate_has_wrapped() -> None:
    accelerate = pytest.importorskip("accelerate")
    tokens, labels = tokens_and_labels()
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    model = accelerator.prepare_model(losskit.patch_causal_lm(llama()))
    assert is_patched(model)
    with pytest.raises(RuntimeError) as caught:
        losskit.unpatch_causal_lm(model)
    assert str(caught.value) == (
        "unpatch_causal_lm: the forward of model must be the one that patch_causal_lm gave this LlamaForCausalLM, got "
        "another around it: undo that first."
    )
    unwrapped = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    torch.testing.assert_close(unwrapped(tokens, labels=labels).loss, llama()(tokens, labels=labels).loss)
    assert is_patched(unwrapped)
    losskit.unpatch_causal_lm(unwrapped)
    assert not is_patched(unwrapped)
    # The other way round.
    model = losskit.patch_causal_lm(accelerator.prepare_model(llama()))
    assert is_patched(model)
    losskit.unpatch_causal_lm(model)
    assert not is_patched(model)


def test_a_nested_patch_leaves_the_decision_to_the_outer_one() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = losskit.patch_causal_lm(llama())

        def get_output_embeddings(self) -> nn.Module:
            return self.inner.lm_head

        def forward(self, tokens: Any, labels: Any = None) -> Any:
            return self.inner(tokens, labels=labels)

    model = losskit.patch_causal_lm(Around())
    tokens, labels = tokens_and_labels()
    assert model(tokens, labels=labels).logits is None
    assert model(tokens, labels, return_logits=True).logits is not None
    losskit.unpatch_causal_lm(model)
    assert is_patched(model.inner)


# models that need their logits ----------------------------------------------------------------------------------------


def loss_and_warnings(model: Any) -> tuple[Any, list[str]]:
    tokens, labels = tokens_and_labels()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        outputs = [model(tokens, labels=labels) for _ in range(2)]
    assert [output.logits for output in outputs] == [None, None]
    outputs[0].loss.backward()
    return outputs[0].loss, [str(warning.message) for warning in seen]


def assert_right_with_a_warning(model: Any, eager: Any, reason: str) -> None:
    tokens, labels = tokens_and_labels()
    loss, said = loss_and_warnings(model)
    expected = eager(tokens, labels=labels).loss
    expected.backward()
    assert torch.equal(loss, expected)
    for ours, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    # Once, not in each call.
    assert said == [
        f"patch_causal_lm: LlamaForCausalLM computes all its logits, which is right and saves no memory: {reason}."
    ]


def test_a_loss_that_does_something_else_with_the_logits() -> None:
    def with_entropy(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
        log_probs = logits.float().log_softmax(-1)
        return torch.nn.functional.nll_loss(log_probs[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    eager = llama()
    eager.loss_function = with_entropy
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    assert_right_with_a_warning(model, eager, "its forward calls log_softmax on them")


def test_a_loss_with_a_term_from_the_logits() -> None:
    def with_z_loss(logits: Any, labels: Any, vocab_size: int, **_: Any) -> Any:
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return loss + 0.1 * logits.logsumexp(-1).square().mean()

    eager = llama()
    eager.loss_function = with_z_loss
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    tokens, labels = tokens_and_labels()
    loss, said = loss_and_warnings(model)
    expected = eager(tokens, labels=labels).loss
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.lm_head.weight.grad, eager.lm_head.weight.grad)
    assert len(said) == 1
    assert "its forward calls logsumexp on them" in said[0]


def test_a_head_with_a_hook() -> None:
    eager = llama()
    eager.lm_head.register_forward_hook(_twice)
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    assert_right_with_a_warning(model, eager, "the head has hooks, which would not run")


def _twice(module: Any, args: Any, output: Any) -> Any:
    return 2 * output


class Doubled(nn.Linear):
    def forward(self, input: Any) -> Any:
        return 2 * super().forward(input)


def test_a_head_that_is_no_linear_layer() -> None:
    eager = llama()
    eager.lm_head.__class__ = Doubled
    model = losskit.patch_causal_lm(copy.deepcopy(eager))
    assert_right_with_a_warning(
        model,
        eager,
        (
            "head must be an nn.Linear, or one that LoRA wraps, got Doubled: losskit.functional.linear_cross_entropy "
            "takes any weight"
        ),
    )


def test_a_head_whose_forward_was_replaced() -> None:
    eager = llama()
    head = eager.lm_head
    head.forward = lambda input: 3 * nn.Linear.forward(head, input)
    model = losskit.patch_causal_lm(llama())
    ours = model.lm_head
    ours.forward = lambda input: 3 * nn.Linear.forward(ours, input)
    assert_right_with_a_warning(model, eager, "something else has replaced the forward of its head")


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 3), "gpt2", None, lambda: llama().model], ids=["Linear", "str", "None", "headless"]
)
def test_what_is_no_language_model(model: Any) -> None:
    if callable(model) and not isinstance(model, nn.Module):
        model = model()
    with pytest.raises(TypeError) as caught:
        losskit.patch_causal_lm(model)
    assert isinstance(caught.value, losskit.LosskitError)
    assert str(caught.value) == (
        "patch_causal_lm: model must be a language model with get_output_embeddings() and a forward that takes labels, "
        f"got {type(model).__name__}."
    )


def test_options_are_checked_before_anything_changes() -> None:
    model = llama()
    with pytest.raises(ValueError, match=r"^patch_causal_lm: workspace must be"):
        losskit.patch_causal_lm(model, workspace="much")
    with pytest.raises(TypeError, match=r"^patch_causal_lm: eval_logits must be a bool, got int\.$"):
        losskit.patch_causal_lm(model, eval_logits=1)  # type: ignore[arg-type]  # on purpose
    assert "forward" not in vars(model)
