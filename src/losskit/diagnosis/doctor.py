"""A script that runs as it is, with every call of a loss watched."""

import builtins
import contextlib
import importlib.util
import runpy
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from losskit.diagnosis.examine import conclude, examine
from losskit.diagnosis.finding import Finding, Place
from losskit.diagnosis.history import History
from losskit.diagnosis.interception import Interception, loaded_namespaces, observing_everywhere
from losskit.diagnosis.report import Report
from losskit.diagnosis.site import shown, user_line
from losskit.diagnosis.steps import counting_steps
from losskit.errors import LosskitValueError

__all__ = ["EVERY", "Doctor", "Examined", "run_watched"]

# A run of the doctor may cost more than one of `watch`, and scripts are short.
EVERY = 100


@dataclass(frozen=True)
class Examined:
    """The report on a script, how it ended, and how much of it was seen."""

    report: Report
    # The exit status of the script: 1 after an exception, as Python has it.
    status: int
    places: int
    calls: int
    checked: int

    def as_dict(self) -> dict[str, Any]:
        seen = {"places": self.places, "calls": self.calls, "checked": self.checked}
        return {**self.report.as_dict(), "status": self.status, "seen": seen}


@dataclass
class Doctor:
    """A history for each place of the program that calls a loss."""

    every: int
    histories: dict[Place, History] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _compiled_before: list[Any] = field(default_factory=list)

    def observe(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = Place(name, *user_line())
        history = self.histories.get(place)
        if history is None:
            with self._lock:
                history = self.histories.setdefault(place, History())
        if not history.count(self.every):
            return original(*args, **kwargs)
        return examine(history, place, original, args, kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Every loss of torch.nn and losskit, by whatever name the program calls it."""
        self._compiled_before = compiled()
        with counting_steps(), Interception(loaded_namespaces()), observing_everywhere(self.observe):
            yield

    def report(self) -> Report:
        findings: list[Finding] = []
        notes: list[str] = []
        for history in self.histories.values():
            conclude(history)
            findings += history.findings()
            notes += history.notes
        new = [each for each in compiled() if not any(each is known for known in self._compiled_before)]
        if new:
            names = list(
                dict.fromkeys(f"{each.co_name} at {shown(each.co_filename)}:{each.co_firstlineno}" for each in new)
            )
            notes.append(
                f"what torch.compile took into a graph, a loss in it too ({', '.join(names[:5])}"
                f"{', …' if len(names) > 5 else ''}); TORCH_COMPILE_DISABLE=1 in the environment shows it"
            )
        return Report.of(findings, notes)


def compiled() -> list[Any]:
    """What torch.compile has compiled, where it was loaded at all; it knows that for statistics of its own."""
    utils = sys.modules.get("torch._dynamo.utils")
    metrics = getattr(utils, "get_compilation_metrics", None)
    return [] if metrics is None else [each for each in metrics() if each.co_filename is not None]


def run_watched(script: str, arguments: Sequence[str], *, module: bool = False, every: int = EVERY) -> Examined:
    """Run a script, or a module of that name, as `python` does, and report on its losses.

    An exception of the script is printed as Python prints it, and is not raised.

    **Raises**: ValueError where there is no such script or module.
    """
    doctor = Doctor(every)
    with _as_main(script, arguments, module):
        if module:
            _check_module(script)
        else:
            _check_script(Path(script))
        with doctor.watching():
            status = _run(script, module)
            report = doctor.report()
    histories = doctor.histories.values()
    return Examined(
        report,
        status,
        len(histories),
        sum(history.calls for history in histories),
        sum(history.checked for history in histories),
    )


def _check_script(path: Path) -> None:
    if path.is_dir() and not (path / "__main__.py").exists():
        raise LosskitValueError(f"doctor: {str(path)!r} is a folder without a __main__.py; name a script in it.")
    if path.exists():
        return
    # A name in the folder that it would be in.
    known = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, known, n=1)
    hint = f" Did you mean {str(path.with_name(near[0]))!r}?" if near else ""
    raise LosskitValueError(f"doctor: there is no script {str(path)!r}.{hint}")


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        hint = f" Did you mean {name!r} without -m?" if Path(name).exists() else ""
        raise LosskitValueError(f"doctor: there is no module {name!r}.{hint}")


@contextlib.contextmanager
def _as_main(script: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    """sys.argv and sys.path as the script expects them."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path.cwd()) if module else str(Path(script).resolve().parent))
    try:
        yield
    finally:
        sys.argv = argv
        sys.path[:] = path


def _run(script: str, module: bool) -> int:
    """The exit status of the script."""
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        elif Path(script).suffix == ".py" and Path(script).is_file():
            _run_source(script)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return _status(stop.code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    # Whatever the script raises is told as Python tells it, and the report comes after it.
    except BaseException as error:
        _print_as_python_does(error)
        return 1
    return 0


def _run_source(script: str) -> None:
    """As runpy does, but with the whole path in __file__, as Python has it: a script may go to another folder."""
    file = str(Path(script).absolute())
    main, before = ModuleType("__main__"), sys.modules["__main__"]
    loader = SourceFileLoader("__main__", file)
    vars(main).update({"__builtins__": builtins, "__cached__": None, "__file__": file, "__loader__": loader})
    sys.modules["__main__"] = main
    try:
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), vars(main))
    finally:
        sys.modules["__main__"] = before


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _print_as_python_does(error: BaseException) -> None:
    trace = _of_the_script(error.__traceback__)
    sys.stdout.flush()
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(type(error), error, trace)
    else:
        sys.excepthook(type(error), error, trace)


def _of_the_script(trace: TracebackType | None) -> TracebackType | None:
    """Without the frames that run it, and those that watch its losses."""
    if trace is None:
        return None
    rest = _of_the_script(trace.tb_next)
    if _is_outside_the_script(trace):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def _is_outside_the_script(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_globals.get("__name__", "")
    return name in ("runpy", "importlib._bootstrap") or name.startswith("losskit.diagnosis")
