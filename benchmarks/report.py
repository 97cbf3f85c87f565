"""The report of a run: a table of at most 120 columns, JSON, and a bar chart."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import losskit
from benchmarks.measure import Timing
from benchmarks.peers import LIMITS
from benchmarks.run import Outcome, PeerResult, WorkloadResult, quotient
from benchmarks.workloads import Target
from losskit.kernels import cpu

SCHEMA = 1
COLUMN_LIMIT = 120
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COLUMNS = ("workload", "peer", "median", "quartiles", "vs eager", "x limit", "peak", "value err", "grad err")
WIDTHS = (28, 11, 9, 18, 8, 7, 6, 9, 9)


# the machine ----------------------------------------------------------------------------------------------------------


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def allocator() -> dict[str, str]:
    """What decides whether fresh memory costs page faults: without it a figure cannot be compared with another."""
    try:
        found = re.search(r"\[(\w+)\]", THP.read_text())
    except OSError:
        found = None
    regime = {"transparent_hugepage": found[1] if found else "unknown"}
    for name, value in sorted(os.environ.items()):
        if name == "THP_MEM_ALLOC_ENABLE" or name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
            regime[name] = value
    return regime


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "losskit": losskit.__version__,
        "kernels": cpu.description() if cpu.available() else f"missing: {cpu.unavailable_reason()}",
        "allocator": allocator(),
    }


def machine_lines(found: dict[str, Any]) -> list[str]:
    regime = ", ".join(f"{name}={value}" for name, value in found["allocator"].items())
    return [
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads; "
        f"torch {found['torch']}, losskit {found['losskit']}, Python {found['python']}",
        f"kernels: {found['kernels']}; allocator: {regime}",
    ]


# text -----------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def spread(timing: Timing) -> str:
    return f"{duration(timing.lower_quartile)}..{duration(timing.upper_quartile)}"


def number(value: float | None, suffix: str = "") -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "inf"
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}") + suffix


def indented(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMN_LIMIT, initial_indent=" " * 4, subsequent_indent=" " * 8)


def cells(result: WorkloadResult, peer: PeerResult, first: bool) -> tuple[str, ...]:
    limit = result.limit()
    gradients = [error for part, error in peer.errors.items() if part != "value"]
    return (
        result.name if first else "",
        peer.name,
        duration(peer.timing.median) if peer.timing else "not timed",
        spread(peer.timing) if peer.timing else "",
        number(result.ratio("eager", peer.name), "x") if peer.name not in LIMITS else "",
        number(result.ratio(peer.name, limit), "x") if limit is not None else "",
        number(peer.extra_peak, "x"),
        f"{peer.errors['value']:.1e}" if "value" in peer.errors else "",
        f"{max(gradients):.1e}" if gradients else "",
    )


def line(texts: Sequence[str]) -> str:
    left = [f"{text:<{width}}" for text, width in zip(texts[:2], WIDTHS[:2], strict=True)]
    right = [f"{text:>{width}}" for text, width in zip(texts[2:], WIDTHS[2:], strict=True)]
    return " ".join(left + right).rstrip()


def heading() -> list[str]:
    return [line(COLUMNS), "-" * (sum(WIDTHS) + len(WIDTHS) - 1)]


def legend() -> list[str]:
    return [
        "Medians of one interleaved run. vs eager: eager's time / this time. x limit: this time / a copy of the loss's",
        "input, or the matrix products alone. peak: extra peak memory / the loss's input; linear_*: without the",
        "gradients, / the workspace. err: against float64, relative to the largest magnitude of the value, or of the",
        "part of the gradient that is worst.",
    ]


def result_lines(result: WorkloadResult) -> Iterator[str]:
    for index, peer in enumerate(result.peers.values()):
        yield line(cells(result, peer, first=index == 0))
        if peer.loss_share is not None:
            yield from indented(f"{peer.name}: the loss takes {100 * peer.loss_share:.1f} % of the step")
        if peer.dispatch is not None and not peer.dispatch.startswith("cpu"):
            yield from indented(f"{peer.name} ran on {peer.dispatch}")
        for note in peer.notes:
            yield from indented(f"{peer.name} {note}")
    if not result.peers:
        yield result.name
    if result.disturbed:
        yield from indented(f"other processes kept {result.other_work:.1f} cores busy: these times are unreliable")
    for complaint in result.complaints:
        yield from indented(f"{'WRONG' if result.status == 'wrong' else 'FAILED'}: {complaint}")


def worst_part(result: WorkloadResult, target: Target) -> str:
    """Where the error of a peer is largest against that of another: the part behind the figure error_ratio."""
    ours, theirs = result.peers[target.peer].errors, result.peers[target.than].errors
    return max(ours, key=lambda part: quotient(ours[part], theirs[part]))


def sentence(result: WorkloadResult, outcome: Outcome) -> str:
    target = outcome.target
    limit = f"{target.limit:g}"
    if target.figure == "seconds":
        return f"{target.limit:g} s at most"
    if target.figure == "error_ratio" and outcome.value is not None:
        return f"{target.peer} errors at most {target.than}'s; largest: {worst_part(result, target)}"
    return {
        "speed_up": f"{target.peer} at least {limit}x faster than {target.than}",
        "time_ratio": f"{target.peer} at most {limit}x the time of {target.than}",
        "peak_memory": f"{target.peer} extra peak memory at most {limit}x the input",
        "value_error_gain": f"{target.peer} value error at least {limit}x smaller than {target.than}'s",
        "error_ratio": f"{target.peer} errors at most {target.than}'s",
        "loss_share": f"{target.peer} loss at most {100 * target.limit:g} % of the step",
    }[target.figure]


def exact(outcome: Outcome) -> str:
    """Four digits, or as many as tell the value from the limit it missed."""
    value, limit = outcome.value, outcome.target.limit
    if value is None or not math.isfinite(value):
        return "inf"
    if value >= 1000:
        return f"{value:,.0f}x"
    digits = next((count for count in range(4, 17) if value == limit or float(f"{value:.{count}g}") != limit), 17)
    return f"{value:#.{digits}g}x"


def outcome_lines(results: Sequence[WorkloadResult]) -> Iterator[str]:
    for result in results:
        for outcome in result.outcomes:
            word = {True: "reached", False: "MISSED", None: "not measured"}[outcome.reached]
            word = "disturbed" if outcome.disturbed else word
            if outcome.value is None:
                value = ""
            elif outcome.target.figure == "seconds":
                value = duration(outcome.value)
            elif outcome.target.figure == "loss_share":
                value = f"{100 * outcome.value:.1f} %"
            else:
                value = exact(outcome)
            yield f"{word:<12} {result.name:<28} {sentence(result, outcome):<60} {value:>9}"


def summary_lines(results: Sequence[WorkloadResult]) -> Iterator[str]:
    outcomes = [outcome for result in results for outcome in result.outcomes]
    reached = [outcome.reached for outcome in outcomes if not outcome.disturbed]
    text = f"{reached.count(True)} targets reached, {reached.count(False)} missed, {reached.count(None)} not measured"
    text += f", {len(outcomes) - len(reached)} disturbed"
    wrong = [result.name for result in results if result.status == "wrong"]
    failed = [result.name for result in results if result.status == "failed"]
    text += f"; wrong values: {', '.join(wrong)}" if wrong else "; every value and gradient passed"
    text += f"; failed: {', '.join(failed)}" if failed else ""
    yield from textwrap.wrap(text + ".", COLUMN_LIMIT)
    busy = sum(result.disturbed for result in results)
    if busy:
        yield f"Other processes disturbed the times of {busy} of {len(results)} workloads: run those again."


# JSON -----------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def as_json(results: Sequence[WorkloadResult], settings: dict[str, Any], found: dict[str, Any]) -> str:
    workloads = []
    for result in results:
        entry = asdict(result)
        entry["peers"] = list(entry["peers"].values())
        for peer in entry["peers"]:
            peer["speed_up_over_eager"] = None if peer["name"] in LIMITS else result.ratio("eager", peer["name"])
        entry["outcomes"] = [
            {
                **asdict(outcome.target),
                "disturbed": outcome.disturbed,
                "at_least": outcome.target.at_least,
                "value": outcome.value,
                "reached": outcome.reached,
            }
            for outcome in result.outcomes
        ]
        workloads.append(entry)
    document = {"schema": SCHEMA, "machine": found, "settings": settings, "workloads": workloads}
    return json.dumps(plain(document), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, text: str) -> None:
    # Replaced in one step, so that an interrupted run leaves the last report whole.
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


# chart ----------------------------------------------------------------------------------------------------------------

BAR, DISTURBED, OTHER, MARK, INK = "#2f6f9f", "#9a9a9a", "#c98a2b", "#b02a30", "#222222"


def speed_target(result: WorkloadResult) -> float | None:
    """The speed-up over eager that the workload promises for losskit."""
    for outcome in result.outcomes:
        target = outcome.target
        if target.peer == "losskit" and target.than == "eager" and target.figure in ("speed_up", "time_ratio"):
            return target.limit if target.figure == "speed_up" else 1 / target.limit
    return None


def write_chart(path: Path, results: Sequence[WorkloadResult], found: dict[str, Any]) -> bool:
    """False where no workload has a speed-up to draw. Raises ImportError without matplotlib."""
    drawn = [(result, ratio) for result in results if (ratio := result.ratio("eager", "losskit")) is not None]
    if not drawn:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(10, 1.8 + 0.34 * len(drawn)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = range(len(drawn))
    ratios = [ratio for _, ratio in drawn]
    # On a log axis a bar has no natural foot: it starts at 1, eager's own speed, to the left where losskit is slower.
    colors = [DISTURBED if result.disturbed else BAR for result, _ in drawn]
    axes.barh(rows, [ratio - 1 for ratio in ratios], left=1, height=0.62, color=colors)
    extremes = [1.0, *ratios]
    for row, (result, ratio) in enumerate(drawn):
        compiled, target = result.ratio("eager", "compile"), speed_target(result)
        if compiled is not None:
            axes.plot(compiled, row, "D", markersize=6, color=OTHER)
            extremes.append(compiled)
        if target is not None:
            axes.plot([target, target], [row - 0.42, row + 0.42], color=MARK, linewidth=2.2)
            extremes.append(target)
        axes.annotate(
            number(ratio, "x") + ("" if target is None else f" of {target:.3g}x"),
            (1.01, row),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=DISTURBED if result.disturbed else INK if target is None or ratio >= target else MARK,
            annotation_clip=False,
        )
    axes.set_xscale("log")
    axes.set_xlim(min(extremes) / 1.15, max(extremes) * 1.15)
    ticks = [
        tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_yticks(rows, [result.name for result, _ in drawn], fontsize=9)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.axvline(1, color=INK, linewidth=1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("speed-up over eager PyTorch, forward + backward, median (log scale)")
    figure.suptitle(
        f"losskit {found['losskit']} against torch {found['torch']}\n{found['cpu']}, {found['threads']} threads",
        fontsize=11,
    )
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=BAR, label="losskit"),
        *([Patch(color=DISTURBED, label="disturbed by other work")] if DISTURBED in colors else []),
        Line2D([], [], marker="|", linestyle="", markersize=12, markeredgewidth=2.2, color=MARK, label="target"),
        Line2D([], [], marker="D", linestyle="", markersize=6, color=OTHER, label="torch.compile"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path)
    return True
