"""The rules of the architecture: each has a test that fails when it is broken."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch
from cases import ALL_CASES, APART, BY_NAME
from fresh_process import output_of

import losskit
from losskit import catalog, errors, functional, modules
from losskit.replace import CLASSES, FUNCTIONS

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "losskit"
FILES = sorted(SOURCE.rglob("*.py"))

# A room may import from rooms of a lower number, and from itself. Rooms to come stand where they will.
ORDER = {
    "errors": 0,
    "catalog": 0,
    "tasks": 0,
    "core": 1,
    "files": 1,
    "names": 1,
    "suggestion": 1,
    "losses": 2,
    "kernels": 2,
    "families": 3,
    "functional": 4,
    "modules": 5,
    "memory": 5,
    "replace": 6,
    "losskit": 7,
    "backends": 8,
    "causal_lm": 8,
    "diagnosis": 8,
    "distributed": 8,
    "explanation": 8,
    "plot": 8,
    "train": 9,
    "cli": 10,
    "__main__": 11,
}
PUBLIC_MODULES = (losskit, catalog, errors, functional, modules)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The part of losskit that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "losskit"


def is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists() or name == "losskit._kernels"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, inside functions too."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if base.startswith("losskit") and is_module(inner) else base


def in_order(names: list[str]) -> list[str]:
    """Constants, classes, the rest; as Ruff sorts them."""
    return sorted(set(names), key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


# imports --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    assert here in ORDER, f"{here} has no place in the order"
    wrong = []
    for line, name in imports(path):
        if name.split(".")[0] != "losskit":
            continue
        # The extension belongs to the kernels.
        there = "kernels" if name == "losskit._kernels" else room(name)
        if there != here and ORDER[there] >= ORDER[here]:
            wrong.append(f"{where(path, line)}: {here} imports {name}")
    assert wrong == []


def test_the_extension_is_imported_in_one_place() -> None:
    users = {module_name(path) for path in FILES for _, name in imports(path) if name == "losskit._kernels"}
    assert users == {"losskit.kernels.cpu.extension"}


@pytest.mark.parametrize("path", sorted((SOURCE / "losses").glob("*.py")), ids=module_name)
def test_definitions_import_torch_alone(path: Path) -> None:
    roots = {name.split(".")[0] for _, name in imports(path)} - {"math", "collections", "functools"}
    inside = {name for _, name in imports(path) if name.startswith("losskit")}
    assert roots - {"losskit"} <= {"torch"}
    assert all(name.startswith("losskit.losses.") for name in inside), inside


def test_importing_losskit_loads_nothing_heavy() -> None:
    code = """
        import json, sys, torch
        before = set(sys.modules)
        import losskit
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    new = json.loads(output_of(code))
    roots = {name.split(".")[0] for name in new}
    assert roots - set(sys.stdlib_module_names) == {"losskit"}
    rooms = {room(name) for name in new if name.startswith("losskit.")}
    assert rooms & {"causal_lm", "cli", "diagnosis", "distributed", "explanation", "plot", "train"} == set()


def test_heavy_packages_stay_out_of_a_fresh_process() -> None:
    code = """
        import sys, losskit
        from losskit import functional
        import torch
        functional.cross_entropy(torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])).backward()
        functional.mse_loss(torch.zeros(2), torch.ones(2), backend="reference")
        heavy = ("triton", "matplotlib", "rich", "sklearn", "numba", "pandas", "torch._dynamo", "torch._inductor")
        print([name for name in heavy if name in sys.modules])
    """
    alone = output_of(
        'import sys, torch; print([n for n in ("triton", "torch._dynamo", "torch._inductor") if n in sys.modules])'
    )
    assert output_of(code) == alone


# names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_public_names_are_sorted_and_complete(module: ModuleType) -> None:
    names = module.__all__
    assert names == in_order(names)
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, (type, FunctionType))
        and (value.__module__ + ".").startswith(module.__name__ + ".")
    }
    missing = sorted(defined - set(names))
    assert missing == []
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_list_of_names_is_sorted(path: Path) -> None:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and "__all__" in [ast.unparse(name) for name in node.targets]:
            names = ast.literal_eval(node.value)
            assert names == in_order(names)
            module = importlib.import_module(module_name(path))
            assert [name for name in names if not hasattr(module, name)] == []


def test_everything_public_is_at_hand() -> None:
    assert set(modules.__all__) <= set(losskit.__all__)
    assert set(FUNCTIONS) < set(functional.__all__)
    assert modules.__all__ == in_order(list(CLASSES))
    for name in ("log_softmax", "logsigmoid", "softmax"):
        assert getattr(functional, name) is getattr(torch.nn.functional, name)


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.stem)
def test_no_module_is_called_utils(path: Path) -> None:
    assert path.stem not in ("util", "utils", "helpers", "misc", "common")


# docstrings -----------------------------------------------------------------------------------------------------------

SECTIONS = ("Equivalent to", "Args", "Returns", "Gradient", "Edge cases", "Raises", "Example")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_of_a_loss_has_every_section(name: str) -> None:
    text = inspect.getdoc(getattr(functional, name)) or ""
    first = text.splitlines()[0]
    assert first.endswith("."), first
    found = re.findall(r"^\*\*([A-Z][a-z]+(?: [a-z]+)*)\*\*:", text, re.MULTILINE)
    assert [section for section in found if section in SECTIONS] == list(SECTIONS)
    assert ">>> " in text.split("**Example**")[1]
    # No parameter without a word.
    arguments = text.split("**Args**")[1].split("**Returns**")[0]
    own = [p.name for p in inspect.signature(getattr(functional, name)).parameters.values()]
    shared = ("sample_weight", "mask", "normalizer", "on_empty", "out_dtype", "backend")
    assert [p for p in own if p not in shared and f"`{p}`" not in arguments] == []
    assert "head of" in " ".join(arguments.split())
    for p in shared:
        assert f"`{p}`" in (functional.__doc__ or "")


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_of_a_module_names_its_function_and_has_an_example(name: str) -> None:
    text = vars(getattr(modules, name)).get("__doc__") or ""
    function = next(info.name for info in catalog.LOSSES if name in (info.module, *info.deprecated_modules))
    assert f"`losskit.functional.{function}`" in text
    assert ">>> " in text.split("**Example**")[1]


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in PUBLIC_MODULES for name in module.__all__ if callable(getattr(module, name))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_public_names_have_a_docstring(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    text = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    assert text
    # dataclass writes its own where there is none.
    assert not text.startswith(f"{name}(")


def test_the_readme_lists_every_loss() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## The losses\n")[1].split("\n## ")[0]
    listed = section.split(" in `losskit.functional`")[0]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(info.name for info in catalog.LOSSES)


@pytest.mark.parametrize("name", [name for name in losskit.__all__ if isinstance(getattr(losskit, name), FunctionType)])
def test_docstrings_of_tools_tell_what_can_go_wrong_or_come_back(name: str) -> None:
    function = getattr(losskit, name)
    text = inspect.getdoc(function) or ""
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert "**Returns**" in text
        assert ">>> " in text
    if any(isinstance(node, ast.Raise) for node in ast.walk(ast.parse(inspect.getsource(function)))):
        assert "**Raises**" in text


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


# the catalogue, the docs, the cases -----------------------------------------------------------------------------------


TASKS = (
    "regression",
    "classification",
    "multi-label classification",
    "sequence classification",
    "ranking",
    "distributions",
    "embedding",
)


def test_the_catalogue_covers_every_loss() -> None:
    assert [info.name for info in catalog.LOSSES] == sorted(FUNCTIONS)
    assert sorted(name for info in catalog.LOSSES for name in (info.module, *info.deprecated_modules)) == sorted(
        CLASSES
    )
    for info in catalog.LOSSES:
        if info.in_torch:
            assert issubclass(getattr(modules, info.module), getattr(torch.nn, info.module))
        else:
            assert not hasattr(torch.nn, info.module)
            assert not hasattr(torch.nn.functional, info.name)
        assert set(info.relatives) <= set(FUNCTIONS) - {info.name}
        assert set(info.try_next) <= set(FUNCTIONS) - {info.name}
        assert all(value for name, value in vars(info).items() if name != "deprecated_modules")
        assert info.task in TASKS


def test_a_module_calls_the_function_that_the_catalogue_names() -> None:
    # The others have arguments of their own, in the tests of their own.
    for info in [info for info in catalog.LOSSES if info.name not in APART]:
        call = BY_NAME[info.name].make("plain", (2, 3), torch.float32)
        assert torch.equal(call.run(getattr(losskit, info.module)()), call.run(getattr(functional, info.name)))


def test_the_cases_cover_every_loss() -> None:
    assert sorted({*(case.name for case in ALL_CASES), *APART}) == sorted(FUNCTIONS)
    named = {info.module for info in catalog.LOSSES if info.name in {case.name for case in ALL_CASES}}
    assert {case.module for case in ALL_CASES} == {getattr(losskit, name) for name in named}


@pytest.mark.parametrize("info", catalog.LOSSES, ids=lambda info: info.name)
def test_the_docs_cover_every_loss(info: catalog.LossInfo) -> None:
    text = (ROOT / "docs" / "losses.md").read_text("utf-8")
    assert f"`{info.name}`" in text
    assert f"`{info.module}`" in text


def test_the_table_of_losses_in_the_docs_is_the_catalogues() -> None:
    assert catalog.markdown_table().strip() in (ROOT / "docs" / "losses.md").read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in losskit.__all__ if isinstance(getattr(losskit, name), FunctionType)])
def test_the_docs_know_every_tool(name: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(name in page.read_text("utf-8") for page in pages if page.exists())


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists()
    ]
    assert broken == []


# settings -------------------------------------------------------------------------------------------------------------


def python_variables(path: Path) -> Iterator[str]:
    """Names of the environment variables that a file reads or writes."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Subscript)) else ""
        if re.match(r"(os\.)?(environ(\.(get|pop|setdefault))?|getenv|putenv)[(\[]", text):
            key = node.args[0] if isinstance(node, ast.Call) else node.slice  # type: ignore[union-attr]
            assert isinstance(key, ast.Constant), f"{where(path, node.lineno)}: the name must be written out"
            yield str(key.value)


def settings() -> set[str]:
    found = {name for path in FILES for name in python_variables(path)}
    for path in (ROOT / "csrc").iterdir():
        found.update(re.findall(r'getenv\("(\w+)"\)', path.read_text("utf-8")))
    build = (ROOT / "CMakeLists.txt").read_text("utf-8")
    found.update(re.findall(r"^\s*option\((\w+)", build, re.MULTILINE))
    found.update(re.findall(r"^\s*set\((\w+) .* CACHE", build, re.MULTILINE))
    return found


def test_every_setting_is_in_the_table() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert "LOSSKIT_ISA" in settings()
    assert sorted(name for name in settings() if f"| `{name}` |" not in text) == []


def test_every_setting_in_the_table_exists() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert set(re.findall(r"\bLOSSKIT_\w+", text)) <= settings()
    for call in re.findall(r"^\| `losskit\.(\w+)\(", text, re.MULTILINE):
        assert call in losskit.__all__


# the text of the sources ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_assert_checks_an_argument(path: Path) -> None:
    lines = [node.lineno for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Assert)]
    assert [where(path, line) for line in lines] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_what_is_raised_on_purpose_is_a_losskit_error(path: Path) -> None:
    """`except LosskitError` catches every error that a call gets for its arguments."""
    if room(module_name(path)) in ("cli", "train", "errors", "plot"):
        pytest.skip("commands end by exit statuses")
    builtin = {"ValueError", "TypeError", "IndexError", "RuntimeError", "Exception", "KeyError", "OSError"}
    wrong = [
        where(path, node.lineno)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in builtin
    ]
    assert wrong == []


def project_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_some_machine() -> None:
    # Put together here, so that this file does not hold them.
    places = [("..", "shared"), ("", "work", ""), ("", "home", ""), ("", "root", ""), ("", "tmp", "")]
    machine = re.compile("|".join(re.escape("/".join(parts)) for parts in places))
    found = []
    for path in project_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line):
                found.append(f"{where(path, number)}: {line.strip()[:80]}")
    assert found == []


def test_the_licence_and_the_changelog_are_there() -> None:
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text("utf-8")
    assert losskit.__version__ in (ROOT / "CHANGELOG.md").read_text("utf-8")
