"""`losskit bench`: how fast the losses are beside torch's, once their values and gradients are found right."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import losskit
from losskit.backends import info
from losskit.cli.comparison import WORKLOADS, Result, compare
from losskit.errors import LosskitValueError
from losskit.names import loss_named

__all__ = ["add_command"]

DESCRIPTION = """\
Checks values and gradients against torch in float64, then times losskit and torch in turn: in a clone of the
repository all of its benchmarks, whose figures go to runs/bench; elsewhere a small comparison of four losses.
"""
EPILOG = """\
examples
  losskit bench --list
  losskit bench --quick
  losskit bench NAME          one that --list gives
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="the speed of the losses beside torch's",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="what to measure (default: everything)")
    parser.add_argument("--quick", action="store_true", help="about a second for each instead of five")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    root = _repository()
    if root is not None:
        options = [*arguments.workloads, *(f"--{name}" for name in ("quick", "list") if getattr(arguments, name))]
        return _benchmarks_of(root)(options)
    return _small(arguments.workloads, arguments.quick, arguments.list)


def _repository() -> Path | None:
    """The clone that this package is used from, if it is one that holds the benchmarks."""
    root = Path(losskit.__file__).resolve().parents[2]
    return root if (root / "benchmarks" / "__main__.py").is_file() else None


def _benchmarks_of(root: Path) -> Callable[[Sequence[str]], int]:
    sys.path.insert(0, str(root))
    try:
        main: Callable[[Sequence[str]], int] = importlib.import_module("benchmarks.__main__").main
    finally:
        sys.path.remove(str(root))
    return main


def _small(names: Sequence[str], quick: bool, only_list: bool) -> int:
    chosen = [loss_named(name, "bench").name for name in names] or list(WORKLOADS)
    unknown = [name for name in chosen if name not in WORKLOADS]
    if unknown:
        raise LosskitValueError(f"bench: there is no workload for {unknown[0]}, there are {', '.join(WORKLOADS)}.")
    if only_list:
        print("\n".join(f"{name:<34}{WORKLOADS[name][0]}" for name in chosen))
        return 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; kernels {info()['backend cpu']}")
    print(_columns("forward and backward, median", "losskit", "torch", "faster", "quartiles of losskit", "error"))
    results = []
    for name in chosen:
        results.append(compare(name, 1.0 if quick else 5.0))
        print(_line(name, results[-1]), flush=True)
    return 0 if all(result.losskit is not None for result in results) else 1


def _line(name: str, result: Result) -> str:
    if result.losskit is None or result.torch is None:
        return f"{name:<34}WRONG: error {result.error:.1e} against float64, torch's {result.torch_error:.1e}; not timed"
    ratio = f"{result.torch.median / result.losskit.median:.2f}×"
    quartiles = f"{_time(result.losskit.lower)} … {_time(result.losskit.upper)}"
    medians = (_time(result.losskit.median), _time(result.torch.median))
    return _columns(name, *medians, ratio, quartiles, f"{result.error:.1e}")


def _columns(name: str, ours: str, theirs: str, ratio: str, quartiles: str, error: str) -> str:
    return f"{name:<34}{ours:>10}{theirs:>10}{ratio:>8}  {quartiles:<22}{error}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
