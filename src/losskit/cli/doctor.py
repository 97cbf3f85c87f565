"""`losskit doctor`: runs a script and tells the faults in the use of its losses."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from losskit.diagnosis.doctor import EVERY, Examined, run_watched
from losskit.errors import LosskitValueError, OutputError

__all__ = ["add_command"]

DESCRIPTION = """\
Runs a training script as it is, with the same arguments, and watches every call of a loss of torch.nn,
torch.nn.functional and losskit: no number changes. At the end it tells what is wrong and how to mend it: a softmax
twice, targets out of range, shapes that broadcast, classes on the wrong axis, losses that teach nothing, and more.
"""

EPILOG = """\
exit status
  that of the script where it is not 0, such as 1 after an exception; otherwise 1 where an error was found, with
  --strict also where a warning was, and 0 where the losses are in order

what is not seen
  losses inside torch.compile: TORCH_COMPILE_DISABLE=1 losskit doctor SCRIPT shows them;
  losses in other processes, such as those of torchrun; losses that are not computed by torch.nn or losskit

examples
  losskit doctor train.py --epochs 1 --lr 0.1
  losskit doctor --json --out report.json train.py
  losskit doctor -m package.train --config small
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="run a training script and tell what is wrong with its losses",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="losskit doctor [options] SCRIPT [ARGS ...]\n       losskit doctor [options] -m MODULE [ARGS ...]",
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as for python -m"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON; what the script prints then goes to the standard error"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report into a file instead")
    parser.add_argument("--strict", action="store_true", help="exit status 1 for warnings too")
    parser.add_argument(
        "--every",
        type=int,
        default=EVERY,
        metavar="N",
        help="check the first three calls of each line that calls a loss and then every N-th (default: %(default)s)",
    )
    parser.add_argument("script", metavar="SCRIPT", help="the script, or with -m the module")
    rest = parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="what the script gets")
    # Older versions of Python say that it is missing where the script is.
    rest.required = False
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.every < 1:
        raise LosskitValueError(f"doctor: --every must be 1 or more, got {arguments.every}.")
    # A training is long, and its report should not be lost for the want of a folder.
    if arguments.out is not None:
        _write(arguments.out, "")
    with _output_to_stderr() if arguments.json and arguments.out is None else contextlib.nullcontext():
        examined = run_watched(arguments.script, arguments.arguments, module=arguments.module, every=arguments.every)
    text = json.dumps(examined.as_dict(), ensure_ascii=False, indent=2) if arguments.json else _text(examined)
    if arguments.out is None:
        print(text)
    else:
        _write(arguments.out, text + "\n")
        print(f"report: {arguments.out}")
    return examined.status or int(_is_ill(examined, arguments.strict))


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """What the script prints, and what its subprocesses and extensions write past sys.stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        # A copy of the stream that the script holds must not keep its text until the report.
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(
            f"doctor: cannot write to --out {path} ({error.strerror}); name a file that can be written."
        ) from error


def _is_ill(examined: Examined, strict: bool) -> bool:
    worst = ("error", "warning") if strict else ("error",)
    return any(finding.severity in worst for finding in examined.report.findings)


def _text(examined: Examined) -> str:
    report = examined.report
    if not examined.calls and not report.notes:
        return "losskit doctor: the script calls no loss of torch.nn or losskit"
    lines = "line" if examined.places == 1 else "lines"
    head = (
        f"losskit doctor: {report.summary()}; {examined.places} {lines} with a loss, {examined.calls} calls, "
        f"{examined.checked} checked"
    )
    return f"{head}\n\n{report}" if report.findings or report.notes else head
