"""Language models of a few thousand parameters, with random weights, one for each thing that architectures do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from torch.nn.functional import cross_entropy

CLASSES = 211
SHAPE = (3, 9)
_ATTENTION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def _made_by(kind: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(0)
        config = getattr(hf, f"{kind}Config")(
            **{"vocab_size": CLASSES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **options}
        )
        name = next(name for name in (f"{kind}ForCausalLM", f"{kind}LMHeadModel") if hasattr(hf, name))
        model = getattr(hf, name)(config).eval()
        # As initialised, the logits are all near 0, and neither a scale nor a cap would show.
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
        return model

    return make


MODELS: dict[str, Callable[[], Any]] = {
    "tied embeddings": _made_by("Llama", **_ATTENTION, tie_word_embeddings=True),
    "a layer apart": _made_by("GPTNeoX", **{**_ATTENTION, "num_key_value_heads": None}, attention_dropout=0.0),
    "another family": _made_by("GPT2", n_embd=16, n_layer=2, n_head=2, n_positions=16),
    "bias in the head": _made_by("Phi", **_ATTENTION),
    "capped by a tanh": _made_by("Gemma2", **_ATTENTION, head_dim=8, final_logit_softcapping=7.0),
    "divided": _made_by("Granite", **_ATTENTION, logits_scaling=3.0),
    "multiplied": _made_by("Cohere", **_ATTENTION, logit_scale=0.3),
    "routers with a loss": _made_by(
        "Mixtral",
        **_ATTENTION,
        num_local_experts=3,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
        # The one that takes float64.
        experts_implementation="eager",
    ),
    "a loss of its own, labels not moved": _made_by(
        "Bart",
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=16,
    ),
}


def llama(**options: Any) -> Any:
    return _made_by("Llama", **_ATTENTION, **options)()


def tokens_and_labels() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, CLASSES, SHAPE, generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :4] = -100
    labels[2, -1] = -100
    return tokens, labels


def loss_of_logits(model: Any, tokens: Tensor, labels: Tensor, divisor: float | None = None) -> Tensor:
    """The loss from the logits, all in the dtype of the model, where transformers goes through float32."""
    output = model(tokens, **({"output_router_logits": True} if hasattr(model, "router_aux_loss_coef") else {}))
    logits, target = output.logits, labels
    if not isinstance(model, hf.BartForCausalLM):
        logits, target = logits[:, :-1], labels[:, 1:]
    total = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
    loss = total / (int((target != -100).sum()) if divisor is None else divisor)
    if hasattr(model, "router_aux_loss_coef"):
        # The experts' share of the tokens, which has labels to do with nothing.
        loss = loss + model.router_aux_loss_coef * output.aux_loss
    return loss
