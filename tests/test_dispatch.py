"""Which backend runs a call, whether it says so, and that every way to the kernels gives the same numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, Case
from fresh_process import output_of, run_python
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import losskit
import losskit.functional as L
from losskit import Dispatch, explain_dispatch
from losskit.errors import BackendError, LosskitRuntimeError, LosskitValueError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="the kernels are not built here")

torch.manual_seed(0)
INPUT, TARGET = torch.randn(6, 5), torch.rand(6, 5)
CLASSES = torch.arange(6) % 5
POSITIVE = torch.rand(6, 5)


class Subclass(Tensor):
    """Not a plain tensor."""


def dual(tensor: Tensor) -> Tensor:
    result: Tensor = forward_ad.make_dual(tensor, torch.ones_like(tensor))
    return result


Build = Callable[[], tuple[Any, tuple[Any, ...], dict[str, Any]]]

# What stands in the way of the kernels, and what is said of it.
OBSTACLES: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]], Build]] = {
    "asked for": (
        "backend='reference' was asked for",
        nullcontext,
        lambda: (L.mse_loss, (INPUT, TARGET), {"backend": "reference"}),
    ),
    "asked for, classes": (
        "backend='reference' was asked for",
        nullcontext,
        lambda: (L.cross_entropy, (INPUT, CLASSES), {"backend": "reference"}),
    ),
    "forward mode": (
        "forward-mode AD is active",
        forward_ad.dual_level,
        lambda: (L.mse_loss, (dual(INPUT), TARGET), {}),
    ),
    "dispatch mode": (
        "a torch dispatch mode is active",
        lambda: FlopCounterMode(display=False),
        lambda: (L.cross_entropy, (INPUT, CLASSES), {}),
    ),
    "function mode": (
        "a torch function mode is active",
        lambda: torch.device("cpu"),
        lambda: (L.huber_loss, (INPUT, TARGET), {}),
    ),
    "subclass": (
        "Subclass is a subclass of Tensor",
        nullcontext,
        lambda: (L.l1_loss, (INPUT.as_subclass(Subclass), TARGET), {}),
    ),
    "subclass as an option": (
        "Subclass is a subclass of Tensor",
        nullcontext,
        lambda: (L.mse_loss, (INPUT, TARGET), {"sample_weight": POSITIVE.as_subclass(Subclass)}),
    ),
    "device": ("a tensor is on meta", nullcontext, lambda: (L.mse_loss, (INPUT.to("meta"), TARGET.to("meta")), {})),
    "negative view": (
        "a tensor is a lazy negative, conjugate or zero",
        nullcontext,
        lambda: (L.mse_loss, (torch._neg_view(INPUT), TARGET), {}),
    ),
    "zero tensor": (
        "a tensor is a lazy negative, conjugate or zero",
        nullcontext,
        lambda: (L.mse_loss, (torch._efficientzerotensor((6, 5)), TARGET), {}),
    ),
    "dimensions": (
        "a tensor has more than 12 dimensions",
        nullcontext,
        lambda: (L.mse_loss, (torch.ones([1] * 13), torch.ones([1] * 13)), {}),
    ),
    "float64": (
        "the kernel takes float32, bfloat16 or float16, the same for input and target, not float64 and float64",
        nullcontext,
        lambda: (L.mse_loss, (INPUT.double(), TARGET.double()), {}),
    ),
    "two dtypes": (
        "the kernel takes float32, bfloat16 or float16, the same for input and target, not float32 and bfloat16",
        nullcontext,
        lambda: (L.binary_cross_entropy_with_logits, (INPUT, TARGET.bfloat16()), {}),
    ),
    "float64, classes": (
        "the kernel takes float32, bfloat16 or float16, not float64",
        nullcontext,
        lambda: (L.nll_loss, (INPUT.double().log_softmax(1), CLASSES), {}),
    ),
    "probabilities of another dtype": (
        "class probabilities have another dtype than input",
        nullcontext,
        lambda: (L.cross_entropy, (INPUT, TARGET.double()), {}),
    ),
    "no classes": (
        "there are no classes",
        nullcontext,
        lambda: (L.cross_entropy, (torch.empty(2, 0), torch.full((2,), -100)), {"reduction": "sum"}),
    ),
    "weight in float64": (
        "a weight is float64",
        nullcontext,
        lambda: (L.mse_loss, (INPUT, TARGET), {"sample_weight": POSITIVE.double()}),
    ),
    "weight in float64, classes": (
        "a weight is float64",
        nullcontext,
        lambda: (L.cross_entropy, (INPUT, CLASSES), {"sample_weight": POSITIVE[:, 0].double()}),
    ),
    "weight with a gradient": (
        "a weight or the normalizer requires a gradient",
        nullcontext,
        lambda: (L.mse_loss, (INPUT, TARGET), {"sample_weight": POSITIVE.clone().requires_grad_()}),
    ),
    "normalizer with a gradient": (
        "a weight or the normalizer requires a gradient",
        nullcontext,
        lambda: (L.cross_entropy, (INPUT, CLASSES), {"normalizer": torch.tensor(2.0, requires_grad=True)}),
    ),
    "target with a gradient": (
        "target requires a gradient",
        nullcontext,
        lambda: (L.binary_cross_entropy, (POSITIVE, TARGET.clone().requires_grad_()), {}),
    ),
    "probabilities with a gradient": (
        "target requires a gradient",
        nullcontext,
        lambda: (L.cross_entropy, (INPUT, TARGET.clone().requires_grad_()), {}),
    ),
}


@needs_kernels
@pytest.mark.parametrize("name", OBSTACLES)
def test_reason(name: str) -> None:
    reason, context, build = OBSTACLES[name]
    with context():
        function, args, options = build()
        assert explain_dispatch(function, *args, **options) == Dispatch("reference", reason)


@needs_kernels
@pytest.mark.parametrize("name", [name for name in OBSTACLES if not name.startswith("asked for")])
def test_a_named_backend_does_not_fall_back(name: str) -> None:
    reason, context, build = OBSTACLES[name]
    with context():
        function, args, options = build()
        with pytest.raises(BackendError) as raised:
            function(*args, **options, backend="cpu")
    assert str(raised.value) == (
        f"{function.__name__}: backend='cpu' cannot run this call: {reason}. backend='auto' can."
    )


@needs_kernels
def test_shapes_that_broadcast() -> None:
    with pytest.warns(UserWarning, match="they broadcast"):
        said = explain_dispatch(L.mse_loss, INPUT, TARGET[:1])
    assert said == Dispatch("reference", "input and target have different shapes")


@needs_kernels
def test_transforms() -> None:
    seen: list[Dispatch] = []

    def loss(input: Tensor) -> Tensor:
        seen.append(explain_dispatch(L.mse_loss, input, TARGET))
        return L.mse_loss(input, TARGET)

    torch.func.grad(loss)(INPUT)
    torch.func.vmap(loss)(torch.stack([INPUT, INPUT]))
    assert seen == [Dispatch("reference", "a torch.func transform is active")] * 2


@needs_kernels
def test_fake_tensors() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(INPUT)
    assert explain_dispatch(L.mse_loss, fake, fake) == Dispatch("reference", "FakeTensor is a subclass of Tensor")


@pytest.mark.parametrize("name", ["mse_loss", "cross_entropy", "binary_cross_entropy"])
def test_no_loss_has_a_triton_kernel(name: str) -> None:
    target = CLASSES if name == "cross_entropy" else TARGET
    with pytest.raises(BackendError) as raised:
        getattr(L, name)(POSITIVE, target, backend="triton")
    assert str(raised.value) == (
        f"{name}: backend='triton' cannot run this call: there is no Triton kernel for this loss. backend='auto' can."
    )


@pytest.mark.parametrize("backend", ["cuda", "CPU", "", None, 1])
def test_unknown_backend(backend: Any) -> None:
    with pytest.raises(LosskitValueError) as raised:
        L.mse_loss(INPUT, TARGET, backend=backend)
    assert str(raised.value) == (f"mse_loss: backend must be 'auto', 'reference', 'cpu' or 'triton', got {backend!r}.")


@needs_kernels
def test_inplace_backward_does_not_fall_back() -> None:
    logits = INPUT.double().requires_grad_() + 0
    with pytest.raises(LosskitRuntimeError) as raised:
        L.cross_entropy(logits, CLASSES, inplace_backward=True)
    assert str(raised.value) == (
        "cross_entropy: inplace_backward=True needs the CPU kernel, but the kernel takes float32, bfloat16 or float16, "
        "not float64."
    )
    with pytest.raises(LosskitRuntimeError) as raised:
        L.cross_entropy(logits.float(), CLASSES, inplace_backward=True, backend="reference")
    assert str(raised.value) == (
        "cross_entropy: inplace_backward=True needs the CPU kernel, but backend='reference' was asked for."
    )


# explain_dispatch itself ----------------------------------------------------------------------------------------------


@needs_kernels
def test_the_kernel_names_its_instruction_set() -> None:
    said = explain_dispatch(L.mse_loss, INPUT, TARGET)
    assert said.backend == "cpu"
    assert said.reason == cpu.description()
    assert said.reason.startswith("fused C++ kernel, instruction set ")


NODES = ("TotalBackward", "EachBackward", "InPlaceBackward", "OfSeveralBackward")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "expanded", "channels last"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.filterwarnings("ignore:kl_div:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_what_is_said_is_what_runs(case: Case, reduction: str, layout: str, dtype: torch.dtype) -> None:
    """The short way to the kernels, which a watched call does not take, takes the same calls."""
    call = case.make("plain", (4, 3, 2, 5) if layout == "channels last" else (4, 3), dtype)
    base = call.input
    input = {
        "contiguous": lambda: base,
        "transposed": lambda: base.t().contiguous().t() if base.ndim == 2 else base,
        "sliced": lambda: torch.cat([base, base], 1)[:, : base.shape[1]],
        "expanded": lambda: base[:1].expand(base.shape),
        "channels last": lambda: base.to(memory_format=torch.channels_last) if base.ndim == 4 else base,
    }[layout]().detach().requires_grad_()  # fmt: skip
    arguments = (input, call.target)
    options = {**call.kwargs, "reduction": reduction}
    said = explain_dispatch(case.function, *arguments, **options)
    loss = case.function(*arguments, **options)
    assert (said.backend == "cpu") == (type(loss.grad_fn).__name__ in NODES)
    assert (said.backend == "cpu") == (dtype != torch.float64)


def test_modules_and_functions_of_a_program() -> None:
    assert explain_dispatch(losskit.CrossEntropyLoss(), INPUT, CLASSES).backend in ("cpu", "reference")

    def last(input: Tensor) -> None:
        L.mse_loss(input, TARGET)
        L.l1_loss(input, TARGET, backend="reference")

    assert explain_dispatch(last, INPUT) == Dispatch("reference", "backend='reference' was asked for")


def test_nothing_of_losskit_ran() -> None:
    with pytest.raises(LosskitValueError) as raised:
        explain_dispatch(F.mse_loss, INPUT, TARGET)
    assert str(raised.value) == f"explain_dispatch: {F.mse_loss!r} ran no loss of losskit."


def test_errors_of_the_call_come_through_and_leave_nothing_behind() -> None:
    with pytest.raises(IndexError):
        explain_dispatch(L.cross_entropy, INPUT, CLASSES + 10)
    with pytest.raises(LosskitValueError, match="ran no loss"):
        explain_dispatch(lambda: None)
    from losskit.core import dispatch

    assert dispatch.watchers == 0


def test_nested_questions() -> None:
    answers: list[Dispatch] = []

    def ask() -> None:
        L.mse_loss(INPUT, TARGET, backend="reference")
        answers.append(explain_dispatch(L.mse_loss, INPUT.double(), TARGET.double()))

    outer = explain_dispatch(ask)
    assert outer.reason == "backend='reference' was asked for"
    assert answers[0].backend == "reference"
    assert answers[0] != outer


def test_another_thread_is_not_listened_to() -> None:
    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: L.mse_loss(INPUT, TARGET))
        thread.start()
        thread.join(30)

    with pytest.raises(LosskitValueError, match="ran no loss"):
        explain_dispatch(elsewhere)


def test_compiled_function() -> None:
    """In a process of its own: the compiler stays loaded. What the compiler made runs no loss of losskit any more."""
    code = """
        import torch, losskit
        from losskit import functional as L

        torch.manual_seed(0)
        x, t = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
        compiled = torch.compile(lambda x: L.cross_entropy(x, t), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), L.cross_entropy(x, t))
        try:
            print(losskit.explain_dispatch(compiled, x))
        except losskit.LosskitError as error:
            print("ran no loss of losskit" in str(error))
    """
    assert output_of(code, timeout=200) == "True"


# the ways to the kernels ----------------------------------------------------------------------------------------------

RESULTS = """
    import hashlib, sys, torch, torch.nn.functional as F
    {before}
    import losskit
    from losskit import functional as L
    from losskit.kernels import cpu

    def calls():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            torch.manual_seed(0)
            x, p = torch.randn(67, 129).to(dtype), torch.rand(67, 129).to(dtype)
            t = torch.randint(129, (67,))
            volume = torch.randn(3, 21, 17, 5).to(dtype)
            pixels = torch.randint(21, (3, 17, 5))
            w = torch.rand(129)
            mask = torch.rand(67) > 0.3
            for reduction in ("none", "mean", "sum"):
                o = dict(reduction=reduction)
                yield "cross_entropy", x, t, o
                yield "cross_entropy", x, t, o | dict(label_smoothing=0.1, weight=w.to(dtype), ignore_index=int(t[0]))
                yield "cross_entropy", x, t.to(torch.uint8), o
                yield "cross_entropy", x, p, o
                yield "cross_entropy", volume, pixels, o
                yield "cross_entropy", volume.to(memory_format=torch.channels_last), pixels, o
                yield "nll_loss", x.log_softmax(1), t, o
                for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"):
                    yield name, x, p, o
                    yield name, x.t(), p.t(), o
                yield "binary_cross_entropy", 0.1 + 0.8 * p, p.flip(0), o
                yield "cross_entropy", x[:0], t[:0], o
                yield "mse_loss", x[0, 0], p[0, 0], o

    def masked():
        torch.manual_seed(1)
        x, t, mask = torch.randn(67, 129), torch.randint(129, (67,)), torch.rand(67) > 0.3
        yield "cross_entropy", x, t, dict(mask=mask, sample_weight=torch.rand(67))
        yield "mse_loss", x, x.flip(0), dict(mask=mask[:, None], sample_weight=torch.rand(67, 129))
        weights = dict(pos_weight=torch.rand(129), weight=torch.rand(67, 1))
        yield "binary_cross_entropy_with_logits", x, x.sigmoid(), weights

    def widened(value):
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    digest = hashlib.sha256()
    for index, (name, x, t, options) in enumerate([*calls(), *masked()]):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        loss = getattr(L, name)(leaf, t, **options)
        upstream = torch.linspace(0.5, 2, loss.numel()).reshape(loss.shape).to(loss.dtype)
        loss.backward(upstream)
        for tensor in (loss.detach(), leaf.grad):
            # One bit pattern for every NaN.
            numbers = tensor.double().nan_to_num(12345.0)
            digest.update(numbers.contiguous().numpy().tobytes())
        if {compare}:
            wide = x.detach().double().requires_grad_()
            kwargs = {{name: widened(value) for name, value in options.items()}}
            exact = getattr(L, name)(wide, widened(t), backend="reference", **kwargs)
            exact.backward(upstream.double())
            for ours, true in ((loss.detach(), exact.detach()), (leaf.grad, wide.grad)):
                if not ours.numel():
                    continue
                assert torch.equal(ours.isnan(), true.isnan()), (index, name, options)
                error = (ours.double() - true).nan_to_num().abs().max()
                bound = 16 * torch.finfo(ours.dtype).eps * true.nan_to_num().abs().max()
                assert error <= bound, (index, name, ours.dtype, options, float(error), float(bound))
    if cpu.available():
        place = torch.randn(8, 5, requires_grad=True) + 0
        place.retain_grad()
        L.cross_entropy(place, torch.arange(8) % 5, inplace_backward=True).backward()
        digest.update(place.detach().numpy().tobytes())
    said = losskit.explain_dispatch(L.mse_loss, torch.ones(2), torch.ones(2))
    print(cpu.exchange(), "|", said.reason, "|", digest.hexdigest())
"""


def results(before: str = "", compare: bool = False, **environment: str) -> list[str]:
    code = RESULTS.replace("{before}", before).replace("{compare}", str(compare)).replace("{{", "{").replace("}}", "}")
    return output_of(code, **environment).split(" | ")


WITHOUT_EXCHANGE = "del torch.Tensor.__dlpack_c_exchange_api__"


@needs_kernels
@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no exchange API")
def test_tensor_attributes_serve_where_torch_has_no_exchange_api() -> None:
    exchange, _, expected = results(compare=True)
    assert exchange == "DLPack C exchange API"
    attributes, _, digest = results(WITHOUT_EXCHANGE)
    assert attributes == "tensor attributes"
    assert digest == expected


@needs_kernels
@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no exchange API")
def test_tensor_attributes_decline_what_has_no_memory() -> None:
    code = f"""
        import torch, torch.nn.functional as F
        {WITHOUT_EXCHANGE}
        import losskit
        from losskit import functional as L
        from losskit.kernels import cpu
        from torch._subclasses import FakeTensorMode

        assert cpu.exchange() == "tensor attributes"
        x, t = torch.randn(6, 5), torch.rand(6, 5)
        lazy = torch._neg_view(-x)
        assert torch.equal(L.mse_loss(lazy, t), L.mse_loss(x, t, backend="reference"))
        assert L.mse_loss(x.to("meta"), t.to("meta")).device.type == "meta"
        with FakeTensorMode() as mode:
            fake = mode.from_tensor(x)
            assert L.mse_loss(fake, fake).shape == ()
        zero = torch._efficientzerotensor((6, 5))
        torch.testing.assert_close(L.mse_loss(zero, t), F.mse_loss(torch.zeros(6, 5), t))
        many = torch.ones([1] * 13)
        assert float(L.mse_loss(many, 2 * many)) == 1.0
        try:
            L.mse_loss(x.to_sparse(), t)
        except RuntimeError:
            pass
        else:
            raise SystemExit("a sparse tensor was taken")
        leaf = torch.randn(300, 400, requires_grad=True)
        L.mse_loss(leaf, torch.zeros(300, 400)).backward()
        kept = leaf.grad.clone()
        active = losskit.memory_stats()["active_bytes"]
        losskit.empty_cache()
        assert torch.equal(leaf.grad, kept)
        leaf.grad = None
        assert losskit.memory_stats()["active_bytes"] < active
        print("fine")
    """
    assert output_of(code) == "fine"


@needs_kernels
@pytest.mark.parametrize("name", cpu.instruction_sets())
def test_each_instruction_set(name: str) -> None:
    _, reason, _ = results(compare=True, LOSSKIT_ISA=name)
    assert reason == f"fused C++ kernel, instruction set {name}"


@needs_kernels
def test_the_best_instruction_set_without_a_wish() -> None:
    for wish in ({}, {"LOSSKIT_ISA": ""}):
        code = "from losskit.kernels import cpu; print(cpu.description())"
        assert output_of(code, **wish) == f"fused C++ kernel, instruction set {cpu.instruction_sets()[0]}"


@needs_kernels
@pytest.mark.parametrize("name", ["v5", "V4", "avx2", "baseline "])
def test_unknown_instruction_set(name: str) -> None:
    done = run_python("import losskit", LOSSKIT_ISA=name)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"losskit.errors.BackendError: LOSSKIT_ISA={name!r} is not an instruction set of this processor: "
        f"{', '.join(cpu.instruction_sets())}."
    )


def test_without_the_extension() -> None:
    """The package as it is where there was no compiler."""
    code = """
        import importlib.abc, sys, torch
        import torch.nn.functional as F

        class Missing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "losskit._kernels":
                    raise ModuleNotFoundError("No module named 'losskit._kernels'")

        sys.meta_path.insert(0, Missing())
        import losskit
        from losskit import functional as L

        x, t = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
        torch.testing.assert_close(L.cross_entropy(x, t), F.cross_entropy(x, t))
        torch.testing.assert_close(L.mse_loss(x, x + 1), F.mse_loss(x, x + 1))
        losskit.empty_cache()
        losskit.set_cache_limit(0)
        print(set(losskit.memory_stats().values()))
        said = losskit.explain_dispatch(L.cross_entropy, x, t)
        print(said.backend, "|", said.reason)
        for options in (dict(backend="cpu"), dict(inplace_backward=True)):
            try:
                L.cross_entropy(x + 0, t, **options)
            except RuntimeError as error:
                print(error)
    """
    reason = "the kernels are not built (No module named 'losskit._kernels')"
    assert output_of(code).splitlines() == [
        "{0}",
        f"reference | {reason}",
        f"cross_entropy: backend='cpu' cannot run this call: {reason}. backend='auto' can.",
        f"cross_entropy: inplace_backward=True needs the CPU kernel, but {reason}.",
    ]


def test_a_criterion_keeps_its_backend() -> None:
    criterion: nn.Module = losskit.MSELoss(backend="reference")
    assert explain_dispatch(criterion, INPUT, TARGET) == Dispatch("reference", "backend='reference' was asked for")
