"""What a stranger installs: the wheel with and without a compiler, its content, its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from fresh_process import run_python

import losskit
from losskit.kernels import cpu

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def built(folder: Path, *options: str, **environment: str) -> Path:
    """The wheel of a copy of the sources, so that nothing here is touched."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("src", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    # Beside the programs of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "..", *options],
        cwd=source,
        env=os.environ | {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """The wheel in a folder of its own, with the torch of this environment."""
    options = ["--quiet", "--no-deps", "--no-compile", "--target", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def output_with(folder: Path, code: str) -> str:
    start = f"""
import sys
# An editable installation would be found first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, {str(folder)!r})
import losskit
if not losskit.__file__.startswith({str(folder)!r}):
    raise SystemExit("this is not the package of the test")
"""
    done = run_python(start + code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that comes out where no C++ compiler is found."""
    folder = tmp_path_factory.mktemp("without")
    programs = folder / "programs"
    programs.mkdir()
    # What a build needs beside a compiler; CMake would find `c++` and the like on the machine's own path.
    for name in ("cmake", "ninja", "make", "sh", "env", "uname", "python3", "git"):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        found = shutil.which(name, path=path)
        if found is not None:
            # A script and not a link: CMake finds its modules beside itself.
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec "{found}" "$@"\n')
            script.chmod(0o755)
    nowhere = str(folder / "no-compiler")
    return built(folder / "built", PATH=str(programs), CXX=nowhere, CC=nowhere)


@pytest.fixture(scope="module")
def with_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler here")
    return built(tmp_path_factory.mktemp("with"), "--config-settings=cmake.define.LOSSKIT_KERNELS=ON")


def files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def assert_sources_alone(wheel: Path) -> None:
    names = files(wheel)
    roots = {name.split("/")[0] for name in names}
    assert roots == {"losskit", f"losskit-{losskit.__version__}.dist-info"}
    assert "losskit/py.typed" in names
    source = ROOT / "src"
    wanted = {path.relative_to(source).as_posix() for path in (source / "losskit").rglob("*.py")}
    assert wanted <= set(names)
    kinds = {Path(name).suffix for name in names if name.startswith("losskit/")}
    assert kinds <= {".py", ".pyi", ".typed", ".so"}
    assert not [name for name in names if re.search(r"(^|/)(tests|csrc|benchmarks|docs)(/|$)|CMakeLists", name)]


def test_wheel_without_a_compiler(without_compiler: Path) -> None:
    assert_sources_alone(without_compiler)
    assert [name for name in files(without_compiler) if name.endswith(".so")] == []


def test_package_without_a_compiler(without_compiler: Path, tmp_path: Path) -> None:
    folder = installed(without_compiler, tmp_path / "site")
    code = """
import torch, torch.nn.functional as F
from losskit import backends, functional as L
x, t = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
for name in ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits"):
    y = t if name == "cross_entropy" else torch.rand(6, 5)
    ours, theirs = getattr(L, name)(x, y), getattr(F, name)(x, y)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x))
print(losskit.explain_dispatch(L.mse_loss, x, x).backend)
print(backends.info()["backend cpu"])
"""
    ran, said = output_with(folder, code).splitlines()
    assert ran == "reference"
    assert re.fullmatch(r"not available: the kernels are not built \(.*_kernels.*\)", said)


def test_info_without_a_compiler(without_compiler: Path, tmp_path: Path) -> None:
    folder = installed(without_compiler, tmp_path / "site")
    printed = output_with(folder, "from losskit.cli import main\nraise SystemExit(main(['info']))")
    assert re.search(r"backend cpu\W+not available: the kernels are not built", " ".join(printed.split()))


def test_wheel_with_a_compiler(with_compiler: Path) -> None:
    assert_sources_alone(with_compiler)
    assert [name for name in files(with_compiler) if name.endswith(".so")] == [f"losskit/_kernels{SUFFIX}"]


def test_package_with_a_compiler(with_compiler: Path, tmp_path: Path) -> None:
    folder = installed(with_compiler, tmp_path / "site")
    code = """
import torch
from losskit import backends, functional as L
print(losskit.explain_dispatch(L.mse_loss, torch.ones(3), torch.zeros(3), backend="cpu").backend)
print(backends.info()["backend cpu"])
"""
    ran, said = output_with(folder, code).splitlines()
    assert ran == "cpu"
    assert said.startswith("available: fused C++ kernel, instruction set ")


def test_the_kernels_link_to_no_torch(with_compiler: Path, tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is missing")
    with zipfile.ZipFile(with_compiler) as archive:
        extension = archive.extract(f"losskit/_kernels{SUFFIX}", tmp_path)
    needed = subprocess.run(["readelf", "-d", extension], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"\(NEEDED\).*\[(.*?)\]", needed)
    assert libraries
    usual = re.compile(r"(lib(c|m|gomp|stdc\+\+|gcc_s|pthread|omp)|ld-linux.*)\.")
    assert [name for name in libraries if not usual.match(name)] == []
    assert "RUNPATH" not in needed
    assert "RPATH" not in needed


def test_kernels_that_are_asked_for_need_a_compiler(tmp_path: Path) -> None:
    """LOSSKIT_KERNELS=ON makes their absence an error."""
    with pytest.raises(AssertionError, match="LOSSKIT_KERNELS=ON needs a C"):
        built(tmp_path / "built", "--config-settings=cmake.define.LOSSKIT_KERNELS=ON",
              "--config-settings=cmake.define.CMAKE_CXX_COMPILER=NOTFOUND",
              CXX=str(tmp_path / "no-compiler"), CC=str(tmp_path / "no-compiler"))  # fmt: skip


def test_kernels_that_are_declined(tmp_path: Path) -> None:
    wheel = built(tmp_path / "built", "--config-settings=cmake.define.LOSSKIT_KERNELS=OFF")
    assert_sources_alone(wheel)
    assert [name for name in files(wheel) if name.endswith(".so")] == []


def project() -> str:
    return (ROOT / "pyproject.toml").read_text("utf-8")


def test_one_version() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', project(), re.MULTILINE)
    assert version == losskit.__version__


def test_metadata(without_compiler: Path) -> None:
    with zipfile.ZipFile(without_compiler) as archive:
        text = archive.read(f"losskit-{losskit.__version__}.dist-info/METADATA").decode()
        entry_points = archive.read(f"losskit-{losskit.__version__}.dist-info/entry_points.txt").decode()
    fields = Parser().parsestr(text)
    assert fields["Version"] == losskit.__version__
    assert fields["Requires-Python"] == ">=3.10"
    assert fields["License-Expression"] == "BSD-3-Clause"
    assert [need for need in fields.get_all("Requires-Dist") or [] if "extra ==" not in need] == ["torch>=2.6"]
    assert set(fields.get_all("Provides-Extra") or []) == {"all", "cli", "dev", "docs", "plot", "train"}
    assert "losskit = losskit.cli:main" in entry_points


def test_the_build_needs_no_torch() -> None:
    (requires,) = re.findall(r"^requires = \[(.*)\]$", project(), re.MULTILINE)
    assert "torch" not in requires


def test_this_environment_runs_the_kernels_where_it_can() -> None:
    """A test run without them would say nothing about them."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler here")
    assert cpu.available(), cpu.unavailable_reason()
