"""`losskit doctor`: unmodified scripts, what is found in them, and how they end."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit.cli import main
from losskit.diagnosis.checks import KINDS
from losskit.diagnosis.interception import _everywhere, _holds

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "faults").glob("*.py"))
# The line that calls the loss, by how it begins.
CALLS = ("loss = criterion(", "loss = F.", "loss = mse_loss(", "validation = ")
# What is probably wrong, and the rest is wrong.
WARNINGS = {"mean_of_means"}

Script = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(ROOT)
    before = dict(vars(F)), dict(vars(losskit.functional)), list(sys.argv), list(sys.path), sys.modules["__main__"]
    yield
    assert (
        dict(vars(F)),
        dict(vars(losskit.functional)),
        sys.argv,
        sys.path,
        sys.modules["__main__"],
    ) == before
    assert (_everywhere, _holds) == ([], {})


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A script of these lines in a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = Path("train.py")
        head = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\ntorch.manual_seed(0)\n"
        path.write_text(head + textwrap.dedent(text), "utf-8")
        return path

    return write


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def found(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[tuple[str, int]], list[str]]:
    """Status, codes with their lines, and what was not checked."""
    status, out, _ = doctor(capsys, "--json", *arguments)
    data = json.loads(out)
    return status, [(each["code"], each["line"]) for each in data["findings"]], data["not_checked"]


# the examples ---------------------------------------------------------------------------------------------------------


def test_there_is_an_example_for_each_check() -> None:
    codes = {path.stem.replace("_", "-"): path for path in EXAMPLES}
    assert sorted(kind.check for kind in KINDS if kind.code in codes) == list(range(1, 13))
    assert len(codes) == 12


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_has_one_fault(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = doctor(capsys, "--json", path.relative_to(ROOT))
    data = json.loads(out)
    (finding,) = data["findings"]
    lines = path.read_text("utf-8").splitlines()
    line = max(number for number, text in enumerate(lines, 1) if text.strip().startswith(CALLS))
    assert finding["code"] == path.stem.replace("_", "-")
    assert (finding["file"], finding["line"]) == (str(path.relative_to(ROOT)), line)
    assert finding["severity"] == ("warning" if path.stem in WARNINGS else "error")
    assert status == (0 if path.stem in WARNINGS else 1)
    assert data["status"] == (1 if path.stem == "float_class_indices" else 0)
    assert data["not_checked"] == []


def test_the_healthy_example(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = doctor(capsys, "examples/healthy.py")
    assert status == 0
    assert out.splitlines()[-1] == "losskit doctor: no fault found; 3 lines with a loss, 240 calls, 9 checked"


@pytest.mark.parametrize("path", [*EXAMPLES, ROOT / "examples" / "healthy.py"], ids=lambda path: path.stem)
def test_examples_are_plain_scripts_of_torch(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert names == {"torch"}
    assert ast.get_docstring(tree)


def test_the_command_in_a_process_of_its_own() -> None:
    """And the report in words, as the README shows it."""
    done = subprocess.run(
        [sys.executable, "-m", "losskit", "doctor", "examples/faults/double_softmax.py"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    first, report = done.stdout.split("\n", 1)
    assert first.startswith("last loss 0.9")
    assert report == (
        "losskit doctor: 1 error; 1 line with a loss, 80 calls, 3 checked\n"
        "\n"
        "error: double-softmax in cross_entropy, examples/faults/double_softmax.py:16\n"
        "  seen  input is the output of a softmax (its grad_fn is SoftmaxBackward0).\n"
        "  why   cross_entropy applies a softmax itself: after two, a perfect prediction of 5 classes costs 0.9048\n"
        "        instead of 0, and the gradient is small everywhere.\n"
        "  fix   cross_entropy(logits, target), without the softmax\n"
        "  more  docs/findings/double-softmax.md\n"
    )
    readme = (ROOT / "README.md").read_text("utf-8")
    # The loss of a trained model may differ in its last digits on another machine.
    shown = readme.split("$ losskit doctor examples/faults/double_softmax.py\n")[1].split("```")[0]
    assert shown.split("\n", 1)[1] == report


# how losses are called ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "F.cross_entropy(x.softmax(1), y)",
        "torch.nn.functional.cross_entropy(x.softmax(1), y)",
        "nn.CrossEntropyLoss()(x.softmax(1), y)",
        "cross_entropy(x.softmax(1), y)",
        "entropy(x.softmax(1), y)",
        "functools.partial(F.cross_entropy, label_smoothing=0.1)(x.softmax(1), y)",
        "{'loss': F.cross_entropy}['loss'](x.softmax(1), y)",
        "losskit.CrossEntropyLoss()(x.softmax(1), y)",
        "losskit.functional.cross_entropy(x.softmax(1), y)",
        "Own()(x, y)",
    ],
)
def test_every_way_to_call_a_loss(call: str, script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(f"""\
        import functools, losskit
        from torch.nn.functional import cross_entropy, cross_entropy as entropy
        class Own(nn.CrossEntropyLoss):
            def forward(self, x, y): return super().forward(x.softmax(1), y)
        x, y = torch.zeros(8, 3, requires_grad=True), torch.arange(8) % 3
        {call}.backward()
        """)
    line = 8 if call.startswith("Own") else 10
    assert found(capsys, path) == (1, [("double-softmax", line)], [])


def test_a_replacement_of_the_losses_in_the_script(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        import losskit
        with losskit.replace_torch_losses():
            x, y = torch.zeros(8, 3, requires_grad=True), torch.arange(8) % 3
            assert isinstance(nn.CrossEntropyLoss(), losskit.CrossEntropyLoss)
            F.cross_entropy(x.softmax(1), y)
        F.nll_loss(x.softmax(1), y)
        """)
    assert found(capsys, path) == (1, [("double-softmax", 9), ("not-log-probabilities", 10)], [])


def test_modules_that_the_script_imports(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Path("part.py").write_text(
        "from torch.nn.functional import mse_loss\n\n\ndef criterion(x, y):\n    return mse_loss(x, y).sqrt()\n",
        "utf-8",
    )
    path = script("""\
        from part import criterion
        criterion(torch.zeros(3, requires_grad=True), torch.zeros(3)).backward()
        """)
    status, out, _ = doctor(capsys, path)
    del sys.modules["part"]
    assert status == 1
    assert "error: non-finite-gradient in mse_loss, " in out
    assert "part.py:5\n" in out


def test_arguments_and_names_are_those_of_python(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        import json, sys, pickle, pathlib
        class Kept: pass
        assert __name__ == "__main__"
        assert pickle.loads(pickle.dumps(Kept)) is Kept
        assert pathlib.Path(__file__).name == "train.py"
        print(json.dumps([sys.argv, sys.path[0]]))
        """)
    status, out, _ = doctor(capsys, path, "--lr", "0.1", "--json", "-m", "x")
    assert status == 0
    first, report = out.split("\n", 1)
    assert json.loads(first) == [["train.py", "--lr", "0.1", "--json", "-m", "x"], str(Path.cwd())]
    assert report == "losskit doctor: the script calls no loss of torch.nn or losskit\n"


def test_a_module(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("import sys\nF.nll_loss(torch.zeros(8, 3), torch.arange(8) % 3)\nprint(sys.argv[1:], __name__)\n")
    Path("package").mkdir()
    Path("package/__init__.py").touch()
    path.rename("package/train.py")
    status, out, _ = doctor(capsys, "-m", "package.train", "--epochs", "3")
    for name in ("package", "package.train"):
        sys.modules.pop(name, None)
    assert status == 1
    assert out.startswith("['--epochs', '3'] __main__\n")
    assert "error: not-log-probabilities in nll_loss, package/train.py:6\n" in out


def test_a_folder_that_is_no_program(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("")
    Path("folder").mkdir()
    status, out, err = doctor(capsys, "folder")
    assert (status, out) == (2, "")
    assert err == "losskit: doctor: 'folder' is a folder without a __main__.py; name a script in it.\n"
    Path("folder/__main__.py").write_text("print('runs')\n", "utf-8")
    status, out, err = doctor(capsys, "folder")
    assert (status, out.split("\n")[0], err) == (0, "runs", "")


def test_the_script_alone_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 2
    assert "required: SCRIPT." in capsys.readouterr().err


def test_json_is_all_that_comes_out_whoever_prints(script: Script) -> None:
    path = script("""\
        import os, subprocess, sys
        os.write(1, b"past Python\\n")
        subprocess.run([sys.executable, "-c", "print('a subprocess')"])
        sys.__stdout__.write("the first stream\\n")
        print("the script")
        """)
    done = subprocess.run(
        [sys.executable, "-m", "losskit", "doctor", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert json.loads(done.stdout)["status"] == 0
    assert sorted(done.stderr.splitlines()) == ["a subprocess", "past Python", "the first stream", "the script"]


def test_a_traceback_shows_the_script_and_the_loss_and_nobody_who_watches(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script("F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 5]))\n")
    status, _, err = doctor(capsys, path)
    assert status == 1
    frames = [line for line in err.splitlines() if line.startswith("  File ")]
    assert "train.py" in frames[0]
    assert all("losskit" not in Path(line.split('"')[1]).parts for line in frames)
    assert err.endswith("IndexError: Target 5 is out of bounds.\n")


def test_the_file_of_the_script_holds_in_another_folder(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        import os, pathlib
        os.mkdir("elsewhere")
        os.chdir("elsewhere")
        print(pathlib.Path(__file__).is_file())
        """)
    status, out, _ = doctor(capsys, path)
    assert (status, out.split("\n")[0]) == (0, "True")


# how the script ends --------------------------------------------------------------------------------------------------

FAULTY = "F.nll_loss(torch.zeros(8, 3), torch.arange(8) % 3)\n"


@pytest.mark.parametrize(
    ("ending", "faulty", "status"),
    [
        ("", False, 0),
        ("", True, 1),
        ("raise SystemExit", False, 0),
        ("raise SystemExit(0)", True, 1),
        ("raise SystemExit(3)", False, 3),
        ("raise SystemExit(3)", True, 3),
        ("raise SystemExit('no data')", False, 1),
        ("1 / 0", False, 1),
        ("1 / 0", True, 1),
        ("raise KeyboardInterrupt", True, 130),
    ],
)
def test_exit_status(
    ending: str, faulty: bool, status: int, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script((FAULTY if faulty else "F.mse_loss(torch.zeros(3), torch.zeros(3))\n") + ending + "\n")
    got, out, err = doctor(capsys, path)
    assert got == status
    assert ("error: not-log-probabilities" in out) == faulty
    assert ("no fault found" in out) == (not faulty)
    if ending == "1 / 0":
        assert err == (
            f'Traceback (most recent call last):\n  File "{path.absolute()}", line 6, in <module>\n'
            "    1 / 0\n    ~~^~~\n"
            "ZeroDivisionError: division by zero\n"
        ) or sys.version_info < (3, 11)
        assert err.startswith(f'Traceback (most recent call last):\n  File "{path.absolute()}", line 6, in <module>\n')
        assert err.endswith("ZeroDivisionError: division by zero\n")
    elif "no data" in ending:
        assert err == "no data\n"
    elif "Keyboard" in ending:
        assert err == "stopped\n"
    else:
        assert err == ""


def test_an_error_of_the_loss_is_unchanged(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        try:
            F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
        except IndexError as error:
            print(error)
        F.mse_loss("input", torch.zeros(3))
        """)
    status, out, err = doctor(capsys, path)
    assert status == 1
    assert out.startswith(
        "Target 3 is out of bounds.\nlosskit doctor: 1 error; 2 lines with a loss, 2 calls, 1 checked"
    )
    assert "not checked: mse_loss, train.py:9: input is no tensor\n" in out
    assert "AttributeError: 'str' object has no attribute" in err


def test_losskits_own_errors_are_the_scripts(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("import losskit\nlosskit.MSELoss(reduction='average')\n")
    status, out, err = doctor(capsys, path)
    assert status == 1
    assert err.startswith("Traceback")
    assert "losskit.errors.LosskitValueError: MSELoss: reduction must be" in err
    assert out == "losskit doctor: the script calls no loss of torch.nn or losskit\n"


def test_a_syntax_error(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = doctor(capsys, script("for\n"))
    assert status == 1
    assert err.endswith("SyntaxError: invalid syntax\n")
    assert 'File "train.py", line 5' in err or f'File "{Path.cwd()}/train.py", line 5' in err


# options --------------------------------------------------------------------------------------------------------------


def test_json_alone_on_the_standard_output(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("print('epoch 1')\n" + FAULTY)
    status, out, err = doctor(capsys, "--json", path)
    assert (status, err) == (1, "epoch 1\n")
    data = json.loads(out)
    assert set(data) == {"findings", "not_checked", "error", "status", "seen"}
    assert data["seen"] == {"places": 1, "calls": 1, "checked": 1}
    (finding,) = data["findings"]
    assert set(finding) == {
        "code", "check", "severity", "function", "seen", "why", "fix", "page", "file", "line",
    }  # fmt: skip
    assert (finding["check"], finding["file"], finding["line"]) == (2, "train.py", 6)


def test_into_a_file(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("print('epoch 1')\n" + FAULTY)
    assert doctor(capsys, "--out", "report.txt", path) == (1, "epoch 1\nreport: report.txt\n", "")
    assert Path("report.txt").read_text("utf-8").startswith("losskit doctor: 1 error; 1 line")
    assert doctor(capsys, "--json", "--out", "report.json", path)[1] == "epoch 1\nreport: report.json\n"
    assert json.loads(Path("report.json").read_text("utf-8"))["status"] == 0


def test_a_file_that_cannot_be_written_is_told_before_the_script_runs(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script("raise SystemExit('was run')\n")
    status, out, err = doctor(capsys, "--out", "nowhere/report.txt", path)
    assert (status, out) == (2, "")
    assert err == (
        "losskit: doctor: cannot write to --out nowhere/report.txt (No such file or directory); name a file that can "
        "be written.\n"
    )


def test_strict(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("F.kl_div(torch.zeros(2, 3).log_softmax(1), torch.full((3,), 1 / 3), reduction='batchmean')\n")
    assert doctor(capsys, path)[0] == 0
    assert doctor(capsys, "--strict", path)[0] == 1


def test_every(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("for _ in range(50): F.mse_loss(torch.zeros(3), torch.ones(3))\n")
    assert "50 calls, 3 checked" in doctor(capsys, path)[1]
    assert "50 calls, 8 checked" in doctor(capsys, "--every", "10", path)[1]
    assert doctor(capsys, "--every", "0", path) == (2, "", "losskit: doctor: --every must be 1 or more, got 0.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian.py"], "there is no script 'trian.py'. Did you mean 'train.py'?"),
        (["elsewhere/train.py"], "there is no script 'elsewhere/train.py'."),
        (["-m", "no_such_package.train"], "there is no module 'no_such_package.train'."),
        (["-m", "train.py"], "there is no module 'train.py'. Did you mean 'train.py' without -m?"),
    ],
)
def test_a_script_that_is_not_there(
    arguments: list[str], message: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script("")
    assert doctor(capsys, *arguments) == (2, "", f"losskit: doctor: {message}\n")
    sys.modules.pop("train", None)


def test_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 2
    assert "the following arguments are required: SCRIPT" in capsys.readouterr().err


# what surrounds a loss ------------------------------------------------------------------------------------------------


def test_what_torch_compile_takes_into_a_graph(script: Script) -> None:
    """In a process of its own: torch.compile is loaded by the script, as a user's script does it."""
    path = script("""\
        x, y = torch.zeros(8, 3, requires_grad=True), torch.arange(8) % 3
        def step(x, y):
            return F.cross_entropy(x.softmax(1), y)
        torch.compile(step, backend="eager", fullgraph=True)(x, y).backward()
        torch.compile(nn.CrossEntropyLoss(), backend="eager", fullgraph=True)(x, y).backward()
        """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "losskit", "doctor", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["findings"] == []
    (note,) = data["not_checked"]
    assert note.startswith("what torch.compile took into a graph, a loss in it too (step at train.py:6, ")
    assert note.endswith("); TORCH_COMPILE_DISABLE=1 in the environment shows it")


def test_workers_of_a_data_loader_and_the_way_around_torch_compile(script: Script) -> None:
    """In a process of its own: workers are made from it, and the variable is read when torch is loaded."""
    path = script("""\
        from torch.utils.data import DataLoader, Dataset
        class Numbers(Dataset):
            def __len__(self): return 4
            def __getitem__(self, index):
                # A loss in a worker is none of the training's.
                return F.mse_loss(torch.zeros(1), torch.ones(1)) * index
        @torch.compile
        def step(x, y):
            return F.nll_loss(x, y)
        if __name__ == "__main__":
            for start in ("fork", "spawn"):
                for batch in DataLoader(Numbers(), batch_size=2, num_workers=1, multiprocessing_context=start):
                    print(batch.tolist(), flush=True)
                    step(torch.zeros(8, 3), torch.arange(8) % 3)
        """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "losskit", "doctor", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(
        "[0.0, 1.0]\n[2.0, 3.0]\n[0.0, 1.0]\n[2.0, 3.0]\n"
        "losskit doctor: 1 error, 1 warning; 1 line with a loss, 4 calls, 3 checked\n\n"
        "error: not-log-probabilities in nll_loss, train.py:13\n"
    )


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_losses_are_not_seen_and_not_hurt(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        x, y = torch.zeros(8, 3), torch.arange(8) % 3
        loss = torch.jit.script(nn.CrossEntropyLoss())(x, y)
        @torch.jit.script
        def both(x: torch.Tensor, y: torch.Tensor):
            return F.mse_loss(x, y) + F.cross_entropy(x, y.argmax(1))
        assert loss == F.cross_entropy(x, y)
        assert both(x, x + 1).isfinite()
        """)
    assert found(capsys, path) == (0, [], [])


def test_threads_of_the_script(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        import threading
        def work():
            for _ in range(50):
                F.nll_loss(torch.zeros(8, 3).softmax(1), torch.arange(8) % 3)
        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        """)
    status, out, _ = doctor(capsys, path)
    assert status == 1
    assert out.startswith("losskit doctor: 1 error, 1 warning; 1 line with a loss, 200 calls, 5 checked\n")


def test_the_same_numbers_with_and_without(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("""\
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(20):
            loss = F.cross_entropy(model(torch.randn(16, 4)), torch.randint(3, (16,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(repr(loss.item()), torch.randn(1).item())
        """)
    watched = doctor(capsys, "--every", "1", path)[1].splitlines()[0]
    exec(compile(path.read_text("utf-8"), "plain", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[0] == watched


def test_an_optimizer_is_no_longer_counted_afterwards(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    from losskit.diagnosis.steps import steps

    doctor(capsys, script(FAULTY))
    before = steps()
    parameter = torch.zeros(1, requires_grad=True)
    torch.optim.SGD([parameter], lr=0.1).step()
    assert steps() == before
