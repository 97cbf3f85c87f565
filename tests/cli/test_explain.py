"""`losskit explain`."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import losskit
from losskit.cli import explain as command
from losskit.cli import main

SMALL = ["explain", "cross_entropy", "--input", "[[0.1, 0.2, 0.3]]", "--target", "[1]"]
MSE = ["explain", "mse_loss", "--input", "[1, 2, 3]", "--target", "[2, 2, 4]"]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


# What is printed.


def test_a_pipe_gets_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    expected = losskit.explain("cross_entropy", [[0.1, 0.2, 0.3]], [1], lang="en")
    assert printed(capsys, *SMALL) == f"{expected}\n"
    assert printed(capsys, *SMALL, "--format", "text") == f"{expected}\n"


@pytest.mark.parametrize(
    ("form", "method"),
    [("md", "to_markdown"), ("html", "to_html"), ("latex", "to_latex"), ("json", "to_json")],
)
def test_forms(form: str, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = losskit.explain("cross_entropy", [[0.1, 0.2, 0.3]], [1], lang="en")
    assert printed(capsys, *SMALL, "--format", form) == getattr(expected, method)()


def test_chinese(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(capsys, *SMALL, "--lang", "zh")
    assert "几何平均" in text
    assert "负对数似然" in text
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert printed(capsys, *SMALL) == text
    assert printed(capsys, *SMALL, "--lang", "en") != text


def test_options_of_the_explanation_before_and_behind_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--digits", "2", "--lang", "zh", "--columns", "2"]
    behind = printed(capsys, *SMALL, *more)
    assert behind == printed(capsys, "explain", *more, *SMALL[1:])
    assert " 1.10" in behind
    assert "共 3 个类别" not in behind
    assert behind == printed(capsys, "explain", *SMALL[2:], *more, "cross_entropy")
    # The one behind the name wins.
    assert printed(capsys, "explain", "--digits", "7", *SMALL[1:], *more) == behind


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_with_rich_gets_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(SMALL) == 0
    assert "\x1b[1m" in terminal.getvalue()
    assert "────" in terminal.getvalue()
    # Text is text, also there.
    terminal.seek(0)
    terminal.truncate()
    assert main([*SMALL, "--format", "text"]) == 0
    assert "\x1b" not in terminal.getvalue()


def test_a_terminal_without_rich_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(SMALL) == 0
    assert terminal.getvalue() == f"{losskit.explain('cross_entropy', [[0.1, 0.2, 0.3]], [1], lang='en')}\n"


def test_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "losskit", *MSE, "--reduction", "sum"], capture_output=True, text=True, check=True
    )
    assert "Result\n  2.0000," in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.md", "md"), ("a.html", "html"), ("a.tex", "latex"), ("a.json", "json"), ("a.txt", "text"), ("a", "text")],
)
def test_out(name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *SMALL, "--out", str(tmp_path / name)) == ""
    assert (tmp_path / name).read_text("utf-8") == printed(capsys, *SMALL, "--format", form)
    assert printed(capsys, *SMALL, "--out", str(tmp_path / name), "--format", "json") == ""
    assert json.loads((tmp_path / name).read_text("utf-8"))["loss"] == "cross_entropy"


def test_help_of_a_loss_names_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explain", "huber_loss", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: losskit explain huber_loss")
    for word in ("--input", "--delta", "--sample-weight", "none|mean|sum", "default: 1.0", "--lang"):
        assert word in text
    assert "--label-smoothing" not in text
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    assert 'losskit explain cross_entropy --input "[[0.1, 0.2, 0.3]]" --target "[1]"' in capsys.readouterr().out


# What is read.


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    read = json.loads(printed(capsys, "explain", *arguments, "--format", "json"))
    return read["result"]


def test_every_argument_of_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    expected = losskit.functional.cross_entropy(
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, 0.0]]),
        torch.tensor([0, 7, 1]),
        torch.tensor([1.0, 3.0]),
        ignore_index=7,
        label_smoothing=0.1,
        sample_weight=torch.tensor([1.0, 1.0, 2.0]),
        mask=torch.tensor([True, True, True]),
        normalizer=2.5,
        on_empty="zero",
        out_dtype=torch.float64,
        backend="reference",
    )
    given = [
        *("cross_entropy", "--input", "[[1, 2], [3, 4], [0.5, 0]]", "--target", "[0, 7, 1]", "--weight", "[1, 3]"),
        *(
            "--ignore-index",
            "7",
            "--label_smoothing",
            "0.1",
            "--sample-weight",
            "[1, 1, 2]",
            "--mask",
            "[true, 1, true]",
        ),
        *("--normalizer", "2.5", "--on-empty", "zero", "--out-dtype", "float64", "--backend", "reference"),
    ]
    assert result(capsys, *given) == expected.item()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gaussian_nll_loss", "--input", "[0, 1]", "--target", "[0.5, 1]", "--var", "[1, 4]"], 0.4091),
        (["gaussian_nll_loss", "--input", "[0, 1]", "--target", "[0.5, 1]", "--var", "1", "--full", "True"], 0.9814),
        (["margin_ranking_loss", "--input1", "[2, 1]", "--input2", "[1, 1.5]", "--target", "[1, 1]"], 0.25),
        (["margin_ranking_loss", "--input1", "[2]", "--input2", "[1]", "--target", "[-1]", "--margin", "-0.5"], 0.5),
        (
            ["triplet_margin_loss", "--anchor", "[[0, 0]]", "--positive", "[[3, 4]]", "--negative", "[[0, 4.5]]"],
            1.5,
        ),
        (
            ["linear_cross_entropy", "--input=[[1, 2]]", "--linear-weight=[[0.1, 0], [0, 0.1]]", "--target=[1]"],
            0.6444,
        ),
        (
            [
                "ctc_loss",
                "--log-probs",
                "[[-1, -2]]",
                "--targets",
                "[]",
                "--input-lengths",
                "[1]",
                "--target-lengths",
                "[0]",
            ],
            1.0,
        ),
        (["l1_loss", "--input", "-3", "--target", "1"], 4.0),
        (["kl_div", "--input", "[[-1, -2]]", "--target", "[[0.5, 0.5]]", "--reduction", "batchmean"], 0.8069),
        (["poisson_nll_loss", "--input", "[1]", "--target", "[2]", "--log-input", "false", "--eps", "1e-8"], 1.0),
        (["mse_loss", "--input", "[NaN, 1]", "--target", "[0, 3]", "--mask", "[0, 1]"], 4.0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_arguments_of_other_losses(arguments: list[str], expected: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert result(capsys, *arguments) == pytest.approx(expected, abs=5e-5)


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = losskit.functional.cross_entropy(logits, labels).item()
    np.save("logits.npy", logits.numpy())
    np.save("big-endian.npy", logits.numpy().astype(">f4"))
    np.save("labels.npy", labels.numpy())
    torch.save(logits, "logits.pt")
    torch.save(labels, "labels.pt")
    Path("logits.csv").write_text("\n".join(", ".join(map(repr, row)) for row in logits.tolist()) + "\n")
    Path("labels.csv").write_text("0\n2\n\n1\n1\n")
    for scores in ("logits.npy", "logits.pt", "logits.csv", "big-endian.npy", str(tmp_path / "logits.npy")):
        for classes in ("labels.npy", "labels.pt", "labels.csv", "[0, 2, 1, 1]"):
            found = result(capsys, "cross_entropy", "--input", scores, "--target", classes)
            assert found == pytest.approx(expected, rel=1e-6)
    # A dtype stays what it is in the file.
    np.save("wide.npy", logits.double().numpy())
    text = printed(capsys, "explain", "cross_entropy", "--input", "wide.npy", "--target", "labels.npy")
    assert "input      (4, 3) float64" in text
    Path("mask.csv").write_text("1\n0\n1\n1\n")
    found = result(capsys, "cross_entropy", "--input", "logits.pt", "--target", "labels.pt", "--mask", "mask.csv")
    assert found == pytest.approx(
        losskit.functional.cross_entropy(logits[[0, 2, 3]], labels[[0, 2, 3]]).item(), rel=1e-6
    )


class _Harmful:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("harmed"),))


def test_nothing_that_is_read_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with open("a.pt", "wb") as file:
        pickle.dump(_Harmful(), file)
    torch.save({"x": _Harmful()}, "b.pt")
    np.save("c.npy", np.array([_Harmful()], dtype=object), allow_pickle=True)
    for name in ("a.pt", "b.pt", "c.npy", '__import__("pathlib").Path("harmed").touch()'):
        assert main(["explain", "mse_loss", "--input", name, "--target", "[1]"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("losskit: explain: --input")
        assert captured.err.count("\n") == 1
    assert not Path("harmed").exists()
    # The payload does what it says where it is loaded without care.
    np.load("c.npy", allow_pickle=True)
    assert Path("harmed").exists()


# What is wrong.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cros_entropy"], "explain: no loss is called 'cros_entropy'. Did you mean 'cross_entropy'?"),
        (
            ["mse_loss", "--input", "[1]"],
            "explain: mse_loss needs input, target; target is missing.",
        ),
        (
            ["mse_loss", "--input", "[1]", "--target", "[1]", "--lang", "fr"],
            "explain: lang must be 'en' or 'zh', got 'fr'.",
        ),
        (
            ["mse_loss", "--input", "[1, 2", "--target", "[1]"],
            "explain: --input '[1, 2' is neither JSON (Expecting ',' delimiter, place 6) nor a .npy, .pt or .csv file: "
            "numbers are written '[[0.1, 0.2], [0.3, 0.4]]'.",
        ),
        (
            ["mse_loss", "--input", '"1"', "--target", "[1]"],
            "explain: --input must be a number or a list of numbers, got '\"1\"'.",
        ),
        (
            ["mse_loss", "--input", "[[1], [1, 2]]", "--target", "[1]"],
            "explain: input makes no tensor: its rows have different lengths.",
        ),
        (
            ["mse_loss", "--input", '["a"]', "--target", "[1]"],
            "explain: input holds 'a', where a number is needed.",
        ),
        (["mse_loss", "--input", "no.npy", "--target", "[1]"], "explain: --input: there is no file no.npy."),
        (
            ["mse_loss", "--input", "text.csv", "--target", "[1]"],
            "explain: --input: text.csv, line 2: 'b' is no number.",
        ),
        (
            ["mse_loss", "--input", "ragged.csv", "--target", "[1]"],
            "explain: --input: ragged.csv, line 2: 1 numbers, where the lines before have 2.",
        ),
        (["mse_loss", "--input", "empty.csv", "--target", "[1]"], "explain: --input: empty.csv is empty."),
        (
            ["mse_loss", "--input", "words.npy", "--target", "[1]"],
            "explain: --input: words.npy holds <U1, and numbers are needed.",
        ),
        (
            ["mse_loss", "--input", "two.pt", "--target", "[1]"],
            "explain: --input: two.pt holds a dict, and a single tensor is needed.",
        ),
        (
            ["mse_loss", "--input", "[1]", "--target", "[1, 2]", "--reduction", "average"],
            "mse_loss: reduction must be 'none', 'mean' or 'sum', got 'average'.",
        ),
        (
            ["mse_loss", "--input", "[1]", "--target", "[1]", "--out-dtype", "float12"],
            "mse_loss: out_dtype must be a floating dtype or None, got float12.",
        ),
        (
            ["mse_loss", "--input", "[1]", "--target", "[1]", "--digits", "99"],
            "explain: digits must lie in [1, 15], got 99.",
        ),
        (
            ["mse_loss", "--input", "[1]", "--target", "[1]", "--out", "no/folder/a.md"],
            "explain: cannot write --out no/folder/a.md (No such file or directory).",
        ),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_what_is_wrong_gets_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.csv").write_text("1\nb\n")
    Path("ragged.csv").write_text("1,2\n3\n")
    Path("empty.csv").write_text("\n")
    np.save("words.npy", np.array(["a"]))
    torch.save({"x": torch.ones(1), "y": torch.ones(1)}, "two.pt")
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"losskit: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mse_loss", "--inptu", "[1]"], "explain mse_loss: there is no option --inptu. Did you mean --input?"),
        (
            ["mse_loss", "--label_smoothing", "0.1"],
            "explain mse_loss: there is no option --label_smoothing. losskit explain mse_loss --help tells what it "
            "takes.",
        ),
        (["--delta", "2", "mse_loss"], "explain mse_loss: there is no option --delta. Did you mean --lang?"),
        (["mse_loss", "--digit", "3"], "explain mse_loss: there is no option --digit. Did you mean --digits?"),
        (["--weigth", "3", "mse_loss"], "there is no option --weigth. Did you mean --weight?"),
        (
            ["mse_loss", "[1]", "[2]"],
            "explain mse_loss: '[1]' is one argument too many. losskit explain mse_loss --help tells what it takes.",
        ),
        (
            ["mse_loss", "--input"],
            "explain mse_loss: argument --input: expected one argument. losskit explain mse_loss --help tells what it "
            "takes.",
        ),
        (
            ["mse_loss", "--format", "htm"],
            "explain mse_loss: --format 'htm' is none of text, md, html, latex, json. Did you mean html?",
        ),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_a_wrong_option_gets_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explain", *arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"losskit: {message}\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.npy", b"nothing"), ("a.pt", b"nothing"), ("a.npy", b""), ("a.pt", b""), ("a.csv", b"\xff\xfe")],
)
def test_damaged_files(name: str, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(content)
    assert main(["explain", "mse_loss", "--input", name, "--target", "[1]"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"losskit: explain: --input: {name} is no ")
    assert error.count("\n") == 1


def test_an_array_without_numpy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.ones(3))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert main(["explain", "mse_loss", "--input", "x.npy", "--target", "[1]"]) == 2
    assert capsys.readouterr().err == "losskit: explain: --input: x.npy needs NumPy: pip install 'losskit[train]'.\n"


def test_a_folder_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.npy").mkdir()
    assert main(["explain", "mse_loss", "--input", "x.npy", "--target", "[1]"]) == 2
    assert capsys.readouterr().err == "losskit: explain: --input: there is no file x.npy.\n"


def test_every_form_has_a_name_and_a_suffix() -> None:
    assert set(command.FORMAT_OF.values()) == set(command.FORMATS) - {"text"}
