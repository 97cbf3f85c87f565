"""`losskit plot`: pictures as files, from names, numbers and files of numbers."""

import re
import sys
from pathlib import Path

import numpy
import pytest
import torch

import losskit
from losskit import plot
from losskit.cli import main
from losskit.plot.style import for_files

PNG, SVG, PDF = b"\x89PNG\r\n\x1a\n", b"<?xml", b"%PDF-"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Logits and labels, in the working folder of the test."""
    numpy.save(
        tmp_path / "logits.npy", numpy.array([[2.0, 0.1, -1.0], [0.3, 0.2, 0.1], [0.0, 1.0, 3.0]], dtype="float32")
    )
    (tmp_path / "labels.csv").write_text("0\n1\n1\n")
    torch.save(torch.tensor([1.0, 2.0, 4.0]), tmp_path / "weight.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 2.0, "test_loss": 1.5}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "file", "head"),
    [
        (["curve", "mse", "l1", "huber", "-o", "out.png"], "out.png", PNG),
        (["curve", "mse", "huber:delta=2", "--span", "-1", "1"], "curve.png", PNG),
        (["curve", "bce", "--y", "0", "--dpi", "40"], "curve.png", PNG),
        (["compare", "MSELoss", "smooth-l1", "--of", "gradient", "-o", "out.svg"], "out.svg", SVG),
        (["question", "mse-for-classes"], "mse-for-classes.png", PNG),
        (["question", "first-loss", "-o", "why.PDF"], "why.PDF", PDF),
        (["samples", "cross_entropy", "--input", "logits.npy", "--target", "labels.csv"], "samples.png", PNG),
        (["samples", "mse", "--input", "[1, 2]", "--target", "[0, 3]"], "samples.png", PNG),
        (
            ["classes", "ce", "--input", "logits.npy", "--target", "[0, 1, 1]", "--weight", "weight.pt"],
            "classes.png",
            PNG,
        ),
        (
            [
                "classes",
                "ce:label_smoothing=0.1",
                "--input",
                "logits.npy",
                "--target",
                "[0, 1, 1]",
                "--weight",
                "balanced",
            ],
            "classes.png",
            PNG,
        ),
        (["landscape", "cross_entropy", "--span", "-2", "2"], "landscape.png", PNG),
        (["landscape", "mse", "--input", "[0, 1, 2]", "--target", "[1, 3, 5]"], "landscape.png", PNG),
        (["history", "run", "--classes", "10"], "history.png", PNG),
        (["history", "run/metrics.jsonl", "--target", "[1, 2, 3]", "--losses", "[[1, 2, 3]]"], "history.png", PNG),
    ],
)
def test_a_picture_of_each_kind(
    arguments: list[str], file: str, head: bytes, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(data.iterdir())
    assert main(["plot", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == file
    assert captured.err == ""
    assert {path.name for path in set(data.iterdir()) - before} == {file}
    assert (data / file).read_bytes().startswith(head)


def test_the_command_draws_what_the_functions_draw(data: Path, tmp_path: Path) -> None:
    assert main(["plot", "curve", "mse", "huber:delta=2", "-o", "command.png", "--dpi", "60"]) == 0
    with for_files():
        plot.save(plot.curve("mse", losskit.HuberLoss(delta=2)), "function.png", dpi=60)
        plot.save(plot.curve("mse", losskit.HuberLoss(delta=1)), "other.png", dpi=60)
    command = (tmp_path / "command.png").read_bytes()
    assert command == (tmp_path / "function.png").read_bytes()
    assert command != (tmp_path / "other.png").read_bytes()


def test_settings_of_the_user_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    draw = ["plot", "compare", "mse", "l1", "-o"]
    assert main([*draw, "first.png"]) == 0
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20, "lines.linewidth": 9}):
        assert main([*draw, "second.png"]) == 0
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    # No window is left open.
    assert pyplot.get_fignums() == []


def test_the_questions_and_their_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "question"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line) for line in lines] == [[asked.name, asked.question] for asked in plot.QUESTIONS]
    assert main(["plot", "question", "class-weights"]) == 0
    asked = plot.QUESTIONS[-1]
    assert capsys.readouterr().out == f"class-weights.png\n{asked.question} {asked.answer}\n"


@pytest.mark.parametrize("kind", ["curve", "compare", "question", "samples", "classes", "landscape", "history"])
def test_help(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plot", kind, "--help"])
    assert stop.value.code == 0
    assert "--out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plot", "--help"])
    assert f"losskit plot {kind}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curve", "msse"], "plot: no loss is called 'msse'. Did you mean 'mse'?"),
        (["curve", "CrossEntropyLos"], "plot: no loss is called 'CrossEntropyLos'. Did you mean 'CrossEntropyLoss'?"),
        (["curve", "xyz"], "plot: no loss is called 'xyz'. losskit losses lists them all."),
        (["curve", "huber:dleta=2"], "plot: HuberLoss has no option 'dleta'. Did you mean 'delta'?"),
        (["curve", "mse:x=1"], "plot: MSELoss has no option 'x'. It has none."),
        (
            ["curve", "huber:delta"],
            "plot: an option of a loss is written name=number, as in huber:delta=2, got 'delta'.",
        ),
        (
            ["curve", "mse", "ce"],
            "curve: mse_loss goes over the error and cross_entropy over the logit; draw them in two pictures.",
        ),
        (
            ["curve", "mse", "-o", "x.jpg"],
            "plot: x.jpg must end in .png, .svg or .pdf, which says the format, got .jpg.",
        ),
        (
            ["curve", "mse", "-o", "nowhere/x.png"],
            "save: nowhere/x.png cannot be written (No such file or directory).",
        ),
        (["curve", "mse", "--dpi", "0"], "plot: --dpi must lie in [10, 1200], got 0."),
        (["question", "softmax"], "question: no question is called 'softmax'. Did you mean 'softmax-twice'?"),
        (
            ["landscape", "mse", "--input", "[1, 2]"],
            "plot: --input and --target belong together; give both for a line, or neither.",
        ),
        (
            ["samples", "mse", "--input", "[[1, 2], [3]]", "--target", "[0, 3]"],
            "plot: --input: '[[1, 2], [3]]' is no tensor: expected a number, or lists of numbers of the same length.",
        ),
        (
            ["classes", "ce", "--input", "logits.npy", "--target", "[0, 1, 5]"],
            "cross_entropy: 1 of 3 targets lie outside [0, 3): {5}, first at index 2. min=0, max=5: 3 is "
            "the size of the class dimension of input.",
        ),
        (
            ["history", "here"],
            "history: here cannot be read (No such file or directory); name a folder of losskit train, or its "
            "metrics.jsonl.",
        ),
    ],
)
def test_errors_are_one_sentence_and_write_nothing(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in data.iterdir())
    assert main(["plot", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"losskit: {message}\n")
    assert sorted(path.name for path in data.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "plot: the following arguments are required: PICTURE. losskit plot --help"),
        (["curv"], "plot: PICTURE 'curv' is none of curve, compare, question, samples, classes, landscape, history."),
        (["curve"], "plot curve: the following arguments are required: LOSS. losskit plot curve --help"),
        (["samples", "mse"], "plot samples: the following arguments are required: --input, --target. losskit plot"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plot", *arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"losskit: {message}")
    assert captured.err.count("\n") == 1


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    assert main(["plot", "curve", "mse"]) == 2
    assert capsys.readouterr().err == (
        "losskit: plot: pictures need matplotlib, which is not installed: pip install 'losskit[plot]'.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["curve", 'huber:delta="x"'], 'losskit: plot: HuberLoss does not take delta="x" ('),
        (["curve", "huber:delta=null"], "losskit: plot: HuberLoss does not take delta=null ("),
        (["curve", "linear_ce:out_features=3"], "losskit: plot: LinearCrossEntropyLoss does not take out_features=3 ("),
        (
            ["samples", "gaussian", "--input", "[1, 2]", "--target", "[0, 1]"],
            "losskit: plot: gaussian_nll_loss takes input, target, var, of which a command gives two; call "
            "losskit.plot.samples from Python.",
        ),
        (
            ["landscape", "triplet", "--input", "[1, 2]", "--target", "[0, 1]"],
            "losskit: plot: triplet_margin_loss takes anchor, positive, negative, of which a command gives two; call "
            "losskit.plot.landscape from Python.",
        ),
        (["history", "run", "--classes", "9" * 30], "losskit: history: num_classes must lie in [1, 10,000,000], got 9"),
    ],
)
def test_hostile_arguments_are_one_sentence(
    arguments: list[str],
    message: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    assert main(["plot", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
