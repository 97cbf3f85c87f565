"""Accumulation, DDP, FSDP2 and the frameworks: the examples of docs/distributed.md make the step of one process."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from cases import dtype_name
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import losskit
from benchmarks import collectives, schemes
from distributed.collectives import rounding
from distributed.ranks import on_ranks
from losskit.distributed import GlobalMean

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
Batches = list[list[tuple[Tensor, Tensor]]]


def example(name: str) -> str:
    """The code of the page that begins with this comment."""
    (code,) = re.findall(rf"```python\n(# {re.escape(name)}\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(code)


class Model(nn.Module):
    """As a framework expects one: in half precision or float64, with a loss of its own or without."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first, self.last = nn.Linear(schemes.FEATURES, 8), nn.Linear(8, schemes.CLASSES)
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(input)))  # type: ignore[no-any-return]  # nn.Module is untyped


def batches(size: int, dtype: torch.dtype, empty: bool = False) -> Batches:
    """For each of `size` ranks its micro-batches; with `empty`, the last rank has nothing that counts."""
    found = schemes.micro_batches(dtype) * (size // schemes.RANKS)
    if empty:
        found[-1] = [(input, torch.full_like(target, -100)) for input, target in found[-1]]
    return found


def parameters(model: nn.Module) -> Tensor:
    whole = [
        value.full_tensor() if isinstance(value, DTensor) else value
        for value in (p.detach() for p in model.parameters())
    ]
    return torch.cat([value.flatten() for value in whole])


def step_of_one_process(found: Batches, dtype: torch.dtype, computed_in: torch.dtype | None = None) -> Tensor:
    """The gradient of the mean over everything: what a step of SGD with lr=1 takes away."""
    model = Model(dtype).to(computed_in or dtype)
    micro_batches = [pair for rank in found for pair in rank]
    counted = sum(int((target != -100).sum()) for _, target in micro_batches)
    for input, target in micro_batches:
        loss = losskit.functional.cross_entropy(
            model(input.to(computed_in or dtype)), target, normalizer=max(counted, 1), backend="reference"
        )
        loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def step(name: str, own: list[tuple[Tensor, Tensor]], dtype: torch.dtype, **names: Any) -> Tensor:
    """What the example takes away from the parameters, in float64 exact enough."""
    model = Model(dtype)
    before = parameters(model)
    space = {"torch": torch, "model": model, "criterion": losskit.CrossEntropyLoss(), "steps": [own], **names}
    exec(example(name), space)
    return before - parameters(model)


def gradient(name: str, own: list[tuple[Tensor, Tensor]], dtype: torch.dtype, **names: Any) -> Tensor:
    """The same without the rounding of the step: what the optimizer saw."""
    model, seen = Model(dtype), []

    class Looking(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            whole = [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in grads]
            seen.append(torch.cat([grad.detach().flatten() for grad in whole]).clone())
            return super().step(closure)

    with mock.patch.object(torch.optim, "SGD", Looking):
        exec(
            example(name),
            {"torch": torch, "model": model, "criterion": losskit.CrossEntropyLoss(), "steps": [own], **names},
        )
    (found,) = seen
    return found


def of_ddp(own: list[tuple[Tensor, Tensor]], normalizers: list[float]) -> Tensor:
    """DDP that averages after each micro-batch."""
    model = Model(torch.float64)
    ddp = DistributedDataParallel(model)
    for (input, target), normalizer in zip(own, normalizers, strict=True):
        losskit.functional.cross_entropy(ddp(input), target, normalizer=normalizer).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def everything() -> dict[Any, Tensor]:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh("cpu", (size,))
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for empty in (False, True):
            own = batches(size, dtype, empty)[rank]
            for name in ("DDP", "FSDP2", "FSDP2, divide factor 1"):
                found[name, dtype, empty] = gradient(name, own, dtype, mesh=mesh)
    nothing = [(input, torch.full_like(target, -100)) for input, target in batches(size, torch.float64)[rank]]
    found["nothing counts"] = gradient("DDP", nothing, torch.float64)
    own = batches(size, torch.float64)[rank]
    mean = GlobalMean()
    mean.count([target for _, target in own])
    found["average after each"] = of_ddp(own, [float(mean.normalizer)] * len(own))
    if size == schemes.RANKS:
        for name, divisor in schemes.SCHEMES.items():
            found[name] = of_ddp(own, [float(divisor(rank, number)) for number in range(len(own))])
    return found


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest) -> list[dict[Any, Tensor]]:
    return on_ranks(request.param, everything)


@pytest.mark.parametrize("empty", [False, True], ids=["", "a rank without a target"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("name", ["DDP", "FSDP2", "FSDP2, divide factor 1"])
def test_the_gradient_of_one_process(
    found: list[dict[Any, Tensor]], name: str, dtype: torch.dtype, empty: bool
) -> None:
    data = batches(len(found), dtype, empty)
    exact, alone = step_of_one_process(data, dtype, torch.float64), step_of_one_process(data, dtype)
    limit = 1e-12 if dtype == torch.float64 else 4 * rounding(alone, exact)
    for rank in found:
        assert torch.equal(rank[name, dtype, empty], found[0][name, dtype, empty])
    assert rounding(found[0][name, dtype, empty], exact) <= limit


def test_no_target_on_any_rank(found: list[dict[Any, Tensor]]) -> None:
    assert bool((found[0]["nothing counts"] == 0).all())


def test_ranks_that_average_after_each_micro_batch(found: list[dict[Any, Tensor]]) -> None:
    exact = step_of_one_process(batches(len(found), torch.float64), torch.float64)
    assert rounding(found[0]["average after each"], exact) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
def test_a_loop_of_ones_own(dtype: torch.dtype) -> None:
    own = batches(2, dtype)[0]
    exact, alone = step_of_one_process([own], dtype, torch.float64), step_of_one_process([own], dtype)
    ours = gradient("plain", own, dtype)
    assert rounding(ours, exact) <= (1e-12 if dtype == torch.float64 else 4 * rounding(alone, exact))


def test_how_wrong_the_other_schemes_are(found: list[dict[Any, Tensor]]) -> None:
    if len(found) != schemes.RANKS:
        pytest.skip("the table is of two ranks")
    exact = step_of_one_process(batches(2, torch.float64), torch.float64)
    wrong = [rounding(found[0][name], exact) for name in schemes.SCHEMES]
    assert wrong[0] > 0.3
    assert wrong[1] > 0.1
    assert wrong[2] == pytest.approx(0.5)
    assert wrong[3] <= 1e-12


def test_the_tables_of_the_page_are_computed() -> None:
    page = PAGE.read_text("utf-8")
    assert schemes.markdown() in page
    assert collectives.markdown() in page
    assert collectives.assumptions() in page


# frameworks: each starts from the environment that torchrun makes -----------------------------------------------------


def as_torchrun(function: Callable[..., Any], *args: Any) -> Any:
    rank, size = str(distributed.get_rank()), str(distributed.get_world_size())
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "test",
        "ACCELERATE_USE_CPU": "true",
    }
    with mock.patch.dict(os.environ, environment), warnings.catch_warnings():
        # Of the frameworks, about themselves.
        warnings.simplefilter("ignore")
        return function(*args)


def with_accelerate() -> Tensor:
    size = distributed.get_world_size()
    return as_torchrun(gradient, "Accelerate", batches(size, torch.float64)[distributed.get_rank()], torch.float64)


def with_lightning(folder: str) -> Tensor:
    import lightning

    size = distributed.get_world_size()

    def trained() -> Tensor:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=size,
            strategy="ddp",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        own = batches(size, torch.float64)[distributed.get_rank()]
        return step("Lightning", own, torch.float64, trainer=trainer)

    found: Tensor = as_torchrun(trained)
    return found


class TokenModel(nn.Module):
    """(B, T, features) in, logits out, as a model of transformers has them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(torch.float64)

    def forward(self, input: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.model(input)}


def with_trainer(folder: str) -> Tensor:
    from transformers import TrainingArguments

    rank, size = distributed.get_rank(), distributed.get_world_size()

    def trained() -> Tensor:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=1,
            max_grad_norm=0.0,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            optim="sgd",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            label_names=["labels"],
            remove_unused_columns=False,
        )
        # The sampler shuffles: which rank gets which sample does not matter to the mean over all.
        samples = [{"input": input, "labels": target} for own in batches(size, torch.float64) for input, target in own]
        model = TokenModel()
        before = parameters(model)
        space = {
            "torch": torch,
            "model": model,
            "criterion": losskit.CrossEntropyLoss(),
            "arguments": arguments,
            "dataset": samples,
        }
        exec(example("Hugging Face Trainer"), space)
        return before - parameters(model)

    assert rank < size
    found: Tensor = as_torchrun(trained)
    return found


@pytest.mark.parametrize("name", ["accelerate", "lightning", "transformers"])
def test_frameworks(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, reason="a package of losskit[dev]")
    functions: dict[str, Callable[[], list[Tensor]]] = {
        "accelerate": lambda: on_ranks(2, with_accelerate),
        "lightning": lambda: on_ranks(2, with_lightning, str(tmp_path)),
        "transformers": lambda: on_ranks(2, with_trainer, str(tmp_path)),
    }
    exact = step_of_one_process(batches(2, torch.float64), torch.float64)
    for found in functions[name]():
        assert rounding(found, exact) <= 1e-12
