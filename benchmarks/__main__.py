"""`python -m benchmarks`: checks, times and reports. Missed targets do not change the exit status; wrong values do.

Exit status: 0 every value and gradient passed; 1 one did not, or a workload could not be run; 2 the command was wrong;
130 interrupted, after the report of what was finished.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.run import Settings, WorkloadResult, run
from benchmarks.workloads import WORKLOADS, PackageWorkload, Workload

FOLDER = Path("runs/bench")


class CommandError(Exception):
    """The command cannot be carried out as it was given."""


def positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Checks the values and gradients of losskit, then measures its speed and memory against PyTorch.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads to run (default: all)")
    parser.add_argument("--only", metavar="PATTERN", help="run the workloads whose name matches, such as 'bce_*'")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    parser.add_argument("--quick", action="store_true", help="a second per workload instead of five")
    parser.add_argument("--seconds", type=positive_number, metavar="S", help="seconds of timing per workload")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="torch.set_num_threads(N)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of the order (default 0)")
    parser.add_argument("--json", type=Path, default=FOLDER / "bench.json", metavar="PATH", help="default %(default)s")
    parser.add_argument("--png", type=Path, default=FOLDER / "bench.png", metavar="PATH", help="default %(default)s")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--build", action="store_true", help="also time `pip install .` in an isolated build")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str], pattern: str | None, build: bool) -> list[Workload | PackageWorkload]:
    known = [workload.name for workload in WORKLOADS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CommandError(f"no workload is called {unknown[0]!r}; there are: {', '.join(known)}.")
    found = [
        workload
        for workload in WORKLOADS
        if (not names or workload.name in names)
        and (pattern is None or fnmatchcase(workload.name, pattern))
        and (workload.name != "build" or build)
    ]
    if not found and (names or pattern is not None):
        if not build and "build" in names:
            raise CommandError("the workload 'build' takes a minute and a network; ask for it with --build.")
        among = f" of {', '.join(names)}" if names else ""
        raise CommandError(f"no workload{among} matches {pattern!r}; there are: {', '.join(known)}.")
    return found


def prepare(paths: Sequence[Path]) -> None:
    """Before minutes of measuring: can the report be written?"""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"the folder of {path} cannot be made: {error.strerror}.") from error
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise CommandError(f"{path} cannot be written; name another file with --json and --png.")


def finish(results: Sequence[WorkloadResult], settings: Settings, json_path: Path, png_path: Path) -> None:
    machine = report.machine()
    targets = list(report.outcome_lines(results))
    print(
        "\n" + "\n".join([*report.legend(), "", *targets, *([""] if targets else []), *report.summary_lines(results)])
    )
    report.write_json(json_path, report.as_json(results, asdict(settings), machine))
    print(f"figures: {json_path}")
    try:
        drawn = report.write_chart(png_path, results, machine)
    except ImportError as error:
        print(f"no chart: {error}; pip install matplotlib")
    else:
        print(f"chart: {png_path}" if drawn else "no chart: nothing was compared with eager")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        workloads = chosen(options.names, options.only, options.build)
        if options.list:
            for workload in workloads:
                print(f"{workload.name:<28} {workload.description}")
            return 0
        prepare((options.json, options.png))
    except CommandError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = Settings(
        seconds=options.seconds if options.seconds is not None else 1.0 if options.quick else 5.0,
        seed=options.seed,
        memory=not options.no_memory,
        compile=not options.no_compile,
    )
    print("\n".join([*report.machine_lines(report.machine()), "", *report.heading()]), flush=True)
    results: list[WorkloadResult] = []
    interrupted = False
    try:
        for workload in workloads:
            results.append(run(workload, settings))
            print("\n".join(report.result_lines(results[-1])), flush=True)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted; the report holds what was finished")
    finish(results, settings, options.json, options.png)
    if interrupted:
        return 130
    return 0 if all(result.status == "measured" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
