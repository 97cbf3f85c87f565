"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: no input reads or writes where it must not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fresh_process import run_python

from losskit.kernels import cpu

ROOT = Path(__file__).resolve().parent.parent


def program(*names: str) -> str | None:
    """From this environment before the machine."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def sanitizer_libraries() -> list[str]:
    """What is loaded before all else: the run-time of AddressSanitizer, and the C++ library whose throw it wraps."""
    compiler = program(os.environ.get("CXX", "g++"), "g++")
    found = []
    for name in ("libasan.so", "libstdc++.so.6") if compiler else ():
        asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        path = Path(asked.stdout.strip())
        if not (path.is_absolute() and path.exists()):
            return []
        found.append(str(path.resolve()))
    return found


LIBRARIES = sanitizer_libraries()
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="no C++ compiler with libasan here")


@dataclass(frozen=True)
class Sanitized:
    """A copy of the package with kernels that are watched."""

    folder: Path

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        start = f"""
import sys
# An editable installation finds its own kernels first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, {str(self.folder)!r})
import losskit
from losskit import _kernels
if not _kernels.__file__.startswith({str(self.folder)!r}):
    raise SystemExit("these are not the kernels of the test")
"""
        return run_python(
            start + code,
            timeout=300,
            LD_PRELOAD=" ".join(LIBRARIES),
            ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1",
            UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
            **environment,
        )


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Sanitized:
    build, package = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("package")
    cmake = program("cmake")
    if cmake is None:
        pytest.fail("cmake is missing: pip install cmake")
    nanobind = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    ninja = program("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else ["-G", "Unix Makefiles"]
    options = [
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DLOSSKIT_KERNELS=ON",
        "-DLOSSKIT_SANITIZE=ON",
        f"-Dnanobind_DIR={nanobind}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    for command in ([cmake, "-S", str(ROOT), "-B", str(build), *generator, *options],
                    [cmake, "--build", str(build), "--parallel", "2"]):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (extension,) = build.glob("_kernels*.so")
    shutil.copytree(ROOT / "src" / "losskit", package / "losskit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(extension, package / "losskit")
    return Sanitized(package)


def assert_clean(done: subprocess.CompletedProcess[str]) -> None:
    text = done.stdout[-2000:] + done.stderr[-6000:]
    assert "Sanitizer" not in done.stderr, text
    assert "runtime error" not in done.stderr, text
    assert done.returncode == 0, text
    assert done.stdout.strip().endswith("end"), text


def test_the_watch_is_awake(sanitized: Sanitized) -> None:
    """A tensor that claims more memory than it has is caught in the kernel that reads it."""
    done = sanitized.run("""
import torch
from losskit import functional as L
x = torch.zeros(1000)
x.untyped_storage().resize_(16)
print("start", flush=True)
L.mse_loss(x, torch.zeros(1000))
print("end")
""")
    assert done.stdout.strip() == "start"
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    # By source line, or by library where there is no symboliser.
    assert "losskit::" in done.stderr or "_kernels" in done.stderr


def test_the_watch_sees_undefined_behaviour(sanitized: Sanitized) -> None:
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", *map(str, (sanitized.folder / "losskit").glob("*.so"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "__ubsan_handle" in done.stdout
    assert "__asan_report" in done.stdout


TARGETS = """
import itertools, torch
from losskit import functional as L
torch.set_num_threads(2)

LOW, HIGH = -(2**63), 2**63 - 1
count = 0

def expect(error, call):
    global count
    count += 1
    try:
        call()
    except error:
        return
    raise SystemExit(f"call {count} raised nothing")

def calls(x, t, log_probs, **options):
    # The short way, the long way, single losses, and the gradient over the logits.
    functions = [L.nll_loss] if log_probs else [L.cross_entropy]
    for function in functions:
        yield lambda: function(x, t, **options)
        yield lambda: function(x, t, reduction="sum", normalizer=3.0, **options)
        yield lambda: function(x, t, reduction="none", **options)
        yield lambda: function(x, t, on_empty="zero", **options)
    if not log_probs:
        yield lambda: L.cross_entropy(x, t, label_smoothing=0.25, **options)
        if x.is_contiguous() and x.requires_grad:
            yield lambda: L.cross_entropy(x + 0, t, inplace_backward=True, **options)

for dtype, log_probs in itertools.product((torch.float32, torch.bfloat16, torch.float16), (False, True)):
    for shape in ((1, 1), (3, 2), (5, 10), (64, 17), (2, 507), (2, 3, 5), (2, 70, 3, 3), (1, 1000)):
        for channels_last in (False, True) if len(shape) == 4 else (False,):
            torch.manual_seed(0)
            x = torch.randn(shape).to(dtype)
            if channels_last:
                x = x.to(memory_format=torch.channels_last)
            x.requires_grad_()
            classes = shape[1]
            good = torch.randint(classes, (shape[0], *shape[2:]))
            for bad in (-1, -2, -101, classes, classes + 1, 2**31, 2**32, 2**32 + 1, -(2**31), LOW, LOW + 1, HIGH):
                for place in {0, good.numel() // 2, good.numel() - 1}:
                    t = good.clone()
                    t.view(-1)[place] = bad
                    for call in calls(x, t, log_probs):
                        expect(IndexError, call)
                    # What is ignored or masked out may be anything.
                    for call in calls(x, t, log_probs, ignore_index=bad):
                        call()
                    for call in calls(x, t, log_probs, mask=(t == good)):
                        call()
            if classes < 200:
                t = good.to(torch.uint8)
                t.view(-1)[-1] = 255
                for call in calls(x, t, log_probs):
                    expect(IndexError, call)
                for call in calls(x, t, log_probs, ignore_index=255):
                    call()
            for other in (torch.int32, torch.int16, torch.int8, torch.bool):
                for call in calls(x, good.clamp(max=1).to(other), log_probs):
                    expect(RuntimeError, call)
            for ignored in (0, classes, -1, LOW, HIGH):
                for call in calls(x, good, log_probs, ignore_index=ignored):
                    result = call()
                    if result.requires_grad:
                        result.sum().backward()
            for call in calls(x, good, log_probs, ignore_index=2**70):
                try:
                    call()
                except (OverflowError, TypeError, ValueError, RuntimeError):
                    pass
            # One sample without a batch.
            if len(shape) == 2:
                for bad in (-1, classes, HIGH, LOW):
                    for call in calls(x.detach()[0].clone().requires_grad_(), torch.tensor(bad), log_probs):
                        expect(IndexError, call)
print(count, "end")
"""

SHAPES = """
import itertools, torch
from losskit import functional as L
torch.set_num_threads(2)

def layouts(x):
    yield x
    if x.numel() > 5000:
        return
    if x.ndim >= 2:
        yield x.transpose(0, 1).contiguous().transpose(0, 1)
        yield torch.cat([x, x], -1)[..., : x.shape[-1]]
        yield x[:1].expand(x.shape)
    if x.ndim == 4:
        yield x.to(memory_format=torch.channels_last)
    # Not at the start of its memory.
    yield torch.cat([x.flatten()[:1], x.flatten()]).as_strided(x.shape, x.contiguous().stride(), 1) if x.numel() else x

def run(function, x, *args, **options):
    leaf = x.detach().requires_grad_()
    loss = function(leaf, *args, **options)
    upstream = torch.rand(loss.shape).to(loss.dtype)
    loss.backward(upstream, retain_graph=True)
    loss.backward(upstream)
    with torch.no_grad():
        function(leaf, *args, **options)

dtypes = (torch.float32, torch.bfloat16, torch.float16)
reductions = ("none", "mean", "sum")
names = ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
         "binary_cross_entropy_with_logits")
for dtype, reduction in itertools.product(dtypes, reductions):
    for shape in ((), (0,), (1,), (2, 0), (7,), (63,), (65,), (3, 507), (2, 3, 4, 5), (1025,), (16385,), (40001,)):
        for p in layouts(torch.rand(shape).to(dtype)):
            y = torch.rand(shape).to(dtype)
            for name in names:
                function = getattr(L, name)
                run(function, p, y, reduction=reduction)
                if p.numel() < 2000:
                    weight, mask = torch.rand(shape), torch.rand(shape) > 0.5
                    run(function, p, y, reduction=reduction, sample_weight=weight, mask=mask)
                    run(function, p, y, reduction=reduction, out_dtype=torch.float64)
            if p.numel() < 2000:
                run(L.binary_cross_entropy_with_logits, p, y, pos_weight=y, reduction=reduction)
    # Outside its domain, and what floats can be beside numbers.
    inf, nan = float("inf"), float("nan")
    odd = torch.tensor([nan, inf, -inf, 1e30, -1e30, 0.0, -0.0, 1e-40, 300.0, -300.0]).to(dtype)
    for name in names:
        try:
            run(getattr(L, name), odd, odd.flip(0), reduction=reduction)
        except RuntimeError as error:
            if name != "binary_cross_entropy":
                raise

    for shape in ((0, 3), (1, 1), (1, 2), (3, 7), (63, 5), (65, 1), (2, 507), (5, 1030), (40, 1000), (1, 70001),
                  (4000, 10), (2, 3, 0), (2, 3, 1), (0, 3, 4), (2, 21, 33), (1, 3, 513), (2, 5, 7, 9), (1, 21, 40, 43),
                  (3, 2, 2, 2, 2)):
        classes = shape[1]
        t = torch.randint(classes, (shape[0], *shape[2:]))
        for x in layouts(torch.randn(shape).to(dtype)):
            small = x.numel() < 3000
            for target in (t, t.to(torch.uint8)) if classes < 256 else (t,):
                run(L.cross_entropy, x, target, reduction=reduction)
                run(L.nll_loss, x, target, reduction=reduction)
            w = torch.rand(classes).to(dtype)
            run(L.cross_entropy, x, t, weight=w, label_smoothing=0.1, ignore_index=0, reduction=reduction)
            run(L.nll_loss, x, t, weight=w, ignore_index=0, reduction=reduction)
            if small:
                share, mask = torch.rand(t.shape), torch.rand(t.shape) > 0.5
                run(L.cross_entropy, x, t, reduction=reduction, sample_weight=share, mask=mask)
                y = torch.rand(shape).to(dtype)
                run(L.cross_entropy, x, y, weight=w, label_smoothing=0.1, reduction=reduction)
                for probabilities in layouts(torch.rand(shape).to(dtype)):
                    run(L.cross_entropy, x, probabilities, reduction=reduction)
            extreme = x.detach().contiguous().clone()
            extreme.view(-1)[::3] = float("-inf")
            run(L.cross_entropy, extreme, t, reduction=reduction)
            extreme.view(-1)[::5] = float("nan")
            run(L.cross_entropy, extreme, t, reduction=reduction)
            if reduction != "none" and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
                logits = x.detach().requires_grad_() + 0
                L.cross_entropy(logits, t, reduction=reduction, inplace_backward=True, label_smoothing=0.1).backward()

# So large that gradients go around the caches.
y = torch.rand(8_400_001)
run(L.mse_loss, torch.rand(8_400_001), y, reduction="sum")
run(L.kl_div, torch.rand(8_400_001), y, reduction="sum")
run(L.gaussian_nll_loss, torch.rand(8_400_001), y, 0.1 + y, reduction="mean")
for shape in ((840_001, 10), (3, 7, 633, 634)):
    run(L.cross_entropy, torch.randn(shape), torch.randint(7, (shape[0], *shape[2:])), reduction="sum")
# More than one block of an image at a time.
for dtype, reduction in itertools.product(dtypes, reductions):
    run(L.cross_entropy, torch.randn(2, 3, 363, 362).to(dtype), torch.randint(3, (2, 363, 362)), reduction=reduction)
print("end")
"""


@pytest.mark.parametrize("name", cpu.instruction_sets() or ["baseline"])
def test_no_target_leads_out_of_bounds(sanitized: Sanitized, name: str) -> None:
    done = sanitized.run(TARGETS, LOSSKIT_ISA=name)
    assert_clean(done)
    assert int(done.stdout.split()[-2]) > 5000


@pytest.mark.parametrize("name", cpu.instruction_sets() or ["baseline"])
def test_every_shape_layout_and_option(sanitized: Sanitized, name: str) -> None:
    assert_clean(sanitized.run(SHAPES, LOSSKIT_ISA=name))
