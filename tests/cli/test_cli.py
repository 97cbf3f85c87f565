"""`losskit` from the outside: help, version, errors, and what the commands print."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fresh_process import output_of

import losskit
from losskit.backends import info
from losskit.cli import main
from losskit.cli.train import _options, resume_command
from losskit.train import TrainOptions
from losskit.train.options import LOSSES

COMMANDS = ("explain", "doctor", "plot", "losses", "train", "bench", "info")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"losskit {losskit.__version__} (torch {torch.__version__})\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {' '.join(['losskit', *command])}")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for name in TrainOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    # The defaults that the help spells out are the ones that hold.
    rates = re.search(r"default: (\S+)\s+for\s+adam\s+and\s+adamw;\s+for\s+sgd\s+(\S+),\s+or\s+(\S+)\s+with", text)
    assert rates is not None
    assert [float(rate) for rate in rates.groups()] == [
        TrainOptions(optimizer="adam").learning_rate,
        TrainOptions().learning_rate,
        TrainOptions(loss="mse").learning_rate,
    ]
    rates = re.search(r"on\s+text\s+(\S+)\s+for\s+adam\s+and\s+adamw,\s+(\S+)\s+for\s+sgd", text)
    assert rates is not None
    assert [float(rate) for rate in rates.groups()] == [
        TrainOptions(data="text").learning_rate,
        TrainOptions(data="text", optimizer="sgd").learning_rate,
    ]


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", line, maxsplit=1) for line in lines] == [[name, value] for name, value in info().items()]
    assert len({re.match(r".*?  +", line).end() for line in lines}) == 1  # type: ignore[union-attr]  # every line matches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--loss", "mse", "--label-smoothing", "0.1"],
            "losskit: train: --label-smoothing 0.1 needs --loss cross_entropy or linear_cross_entropy, got --loss mse, "
            "which has no label smoothing; leave the option out.\n",
        ),
        (["--epochs", "0"], "losskit: train: --epochs must lie in [1, 1048575], got 0.\n"),
        (
            ["--data", "cifar10", "--root", "nowhere"],
            "losskit: cifar10: nowhere holds none of cifar-10-batches-py/, cifar-10-batches-bin/, "
            "cifar-10-python.tar.gz, cifar-10-binary.tar.gz; download "
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170498071 bytes) and put it into nowhere, "
            "as it is or extracted, or name its folder with --root.\n",
        ),
        (
            ["--data", "fake", "--out", "file/below"],
            "losskit: train: cannot write to --out file/below (Not a directory); name a folder that can be written.\n",
        ),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "losskit: the following arguments are required: COMMAND. losskit --help tells what it takes."),
        (["trian"], "losskit: command 'trian' is none of {commands}. Did you mean train?"),
        (
            ["train", "--data", "mnist"],
            "losskit: train: --data 'mnist' is none of digits, cifar10, text, fake. "
            "losskit train --help tells what it takes.",
        ),
        (["train", "--loss", "msee"], "losskit: train: --loss 'msee' is none of {losses}. Did you mean mse?"),
        (
            ["train", "--lr", "fast"],
            "losskit: train: argument --lr: invalid float value: 'fast'. losskit train --help tells what it takes.",
        ),
        (["losses", "--taks", "x"], "losskit: there is no option --taks. Did you mean --task?"),
        (["train", "now"], "losskit: 'now' is one argument too many. losskit --help tells what it takes."),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    message = message.format(commands=", ".join(COMMANDS), losses=", ".join(LOSSES))
    assert (captured.out, captured.err) == ("", f"{message}\n")


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("losskit in", ["info "]),
        ("losskit train --data c", ["cifar10 "]),
        ("losskit train --lab", ["--label-smoothing "]),
    ],
)
def test_completion(line: str, completions: list[str], tmp_path: Path) -> None:
    # As bash asks, which reads the answer from descriptor 8; here from a file.
    answer = tmp_path / "answer"
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "COMP_LINE": line}
    environment |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    output_of("from losskit.cli import main; main([])", **environment)
    assert answer.read_text().split("\n") == completions


def test_digits_with_default_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    text = capsys.readouterr().out
    folder = Path("runs/digits-cross_entropy")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["test_accuracy"] > 0.95
    assert rows[-1]["train_loss"] < 0.1 * rows[0]["train_loss"]
    right = round(rows[-1]["test_accuracy"] * 360)
    assert (
        f"done: test loss {rows[-1]['test_loss']:.4f} nats, accuracy {100 * rows[-1]['test_accuracy']:.2f} % "
        f"({right} of 360 test images)\n"
    ) in text
    assert f"loss curve: {folder}/curve.png\n" in text
    assert (folder / "curve.png").is_file()
    assert len(re.findall(r"^epoch +\d+/12  train loss \d", text, flags=re.MULTILINE)) == 12


def test_comparison_decides_the_exit_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", "--data", "fake", "--epochs", "1", "--compare-torch"]
    assert main(train) == 0
    assert "  the same within rounding\n" in capsys.readouterr().out

    class Wrong(losskit.CrossEntropyLoss):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # a signature of its own
            return super().forward(input, target) * 1.001

    monkeypatch.setattr(losskit, "CrossEntropyLoss", Wrong)
    assert main([*train, "--out", "wrong"]) == 1
    assert "  NOT the same\n" in capsys.readouterr().out


def test_lines_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from losskit.cli import progress

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert type(progress.best_progress()) is progress.Lines


def test_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["train", "--data", "fake", "--epochs", "2"]) == 0
    text = capsys.readouterr().out
    # The bar is drawn, moved and cleared; the lines stay.
    assert "━" in text
    assert "\x1b[" in text
    assert "epoch 2/2  train loss " in text


def test_resume_command_gives_the_same_options() -> None:
    from losskit.cli.app import _parser

    options = TrainOptions(
        data="fake", loss="bce_with_logits", class_weights="balanced", lr=1e-5, seed=3, epochs=7, out=Path("a b"),
        root=Path("elsewhere"), overwrite=True,
    )  # fmt: skip
    command = resume_command(options, compare_torch=True)
    assert command == (
        "losskit train --data fake --loss bce_with_logits --class-weights balanced --lr 1e-05 --seed 3 "
        "--root elsewhere --epochs 7 --out 'a b' --compare-torch"
    )
    text = TrainOptions(data="text", loss="cross_entropy", batch_size=7)
    told = resume_command(text, compare_torch=False)
    assert told == "losskit train --data text --loss cross_entropy --batch-size 7 --out runs/text-cross_entropy"
    for words, meant in ((command, options), (told, text)):
        given = _options(_parser().parse_args(shlex.split(words)[1:]))
        assert given.fixed() == meant.fixed()
        assert (given.epochs, given.folder, given.root) == (meant.epochs, meant.folder, meant.root)
        assert not given.overwrite


def test_importing_losskit_loads_neither_room() -> None:
    """Nor what only they need."""
    script = (
        "import sys, losskit\n"
        "rooms = [name for name in sys.modules if name.startswith(('losskit.train', 'losskit.cli'))]\n"
        "extras = [name for name in ('matplotlib', 'rich', 'sklearn') if name in sys.modules]\n"
        "print(rooms + extras)\n"
        "import losskit.cli, losskit.train\n"
        "print([name for name in ('matplotlib', 'rich', 'sklearn') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n[]\n"


def test_as_a_module_and_into_a_pipe_that_closes() -> None:
    command = [sys.executable, "-m", "losskit", "info"]
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert whole.stdout.startswith("losskit ")
    # The reader is gone before the first line is written.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141
