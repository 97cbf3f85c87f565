"""`torch.export`: a model with its loss becomes a graph of torch's own operations, which runs without losskit."""

import io
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from cases import CASES, VARIANTS, Call, Case
from torch import Tensor, nn


class Measured(nn.Module):
    """What is exported: the loss of one case, its options fixed."""

    def __init__(self, case: Case, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function = case.function
        self.kwargs = kwargs

    def forward(self, input: Tensor, target: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return self.function(input, target, **self.kwargs, **tensors)


def exported(case: Case, call: Call, **more: Any) -> tuple[torch.export.ExportedProgram, tuple[Any, ...]]:
    tensors = {name: value for name, value in call.kwargs.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in call.kwargs.items() if not isinstance(value, Tensor)}
    arguments = (call.input, call.target, tensors)
    return torch.export.export(Measured(case, numbers), arguments, **more), arguments


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_export(case: Case, variant: str) -> None:
    call = case.make(variant, (6, 5), torch.float32)
    program, arguments = exported(case, call)
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operations
    assert [name for name in operations if "losskit" in name] == []
    assert_as_exact(program.module()(*arguments), call.run(case.function, backend="reference").double())


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_an_exported_loss_is_saved_and_takes_other_batch_sizes(case: Case) -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    call = case.make("plain", (6, 5), torch.float32)
    tensors = {name: {0: rows} for name, value in call.kwargs.items() if isinstance(value, Tensor)}
    program, _ = exported(case, call, dynamic_shapes=({0: rows}, {0: rows}, tensors))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for count in (6, 9):
        other = case.make("plain", (count, 5), torch.float32, seed=count)
        given = {name: value for name, value in other.kwargs.items() if isinstance(value, Tensor)}
        loss = loaded(other.input, other.target, given)
        assert_as_exact(loss, other.run(case.function, backend="reference").double())
