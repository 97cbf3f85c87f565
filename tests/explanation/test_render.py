"""An explanation as text, in a terminal, as HTML, Markdown, LaTeX and JSON."""

import functools
import io
import json
import re
import sys
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from matplotlib.mathtext import MathTextParser
from rich.console import Console

import losskit
from explanation.provoked import CALLS, explanations
from losskit.errors import MissingDependencyError
from losskit.explanation import Explanation
from losskit.explanation.latex import formula
from losskit.explanation.render.outline import outline
from losskit.explanation.render.text import blocks_of, wrapped
from losskit.explanation.table import Cell, Grid

LANGUAGES = ["en", "zh"]


@functools.cache
def cached(lang: str) -> list[Explanation]:
    return list(explanations(lang))


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def example(lang: str = "en", **more: Any) -> Explanation:
    explanation: Explanation = losskit.explain(
        "cross_entropy", [[0.1, 0.2, 0.3], [1.0, -2.0, 1e-6]], [1, 0], weight=[1, 2, 1], lang=lang, **more
    )
    return explanation


# Text.


def test_text() -> None:
    assert str(losskit.explain("mse_loss", [1, 2, 3], [2, 2, 4], lang="en")) == (
        """\
mse_loss · MSELoss · regression
===============================

  input      (3,) float32
  target     (3,) float32
  reduction  mean

Formula
  (x − y)²

  x     an element of input
  y     the element of target for it
  d     the error
  ℓ, L  a single loss, and what is made of all of them
  N     the number of losses that count

1. Error
  d = x − y
  How far the input lies above the target.

  element       x       y        d
        0  1.0000  2.0000  -1.0000
        1  2.0000  2.0000   0.0000
        2  3.0000  4.0000  -1.0000

2. Square
  ℓ = d²
  An error twice as large costs four times as much.

  element        d       ℓ
        0  -1.0000  1.0000
        1   0.0000  0.0000
        2  -1.0000  1.0000

3. Mean
  L = Σ ℓ / D, D = N
  The sum of the losses over its divisor D.

     Σ ℓ  D       L
  2.0000  3  0.6667

Result
  0.6667, unit: that of the target, squared. The call returns this as float32; the steps above come
  to 0.6667.

Gradient by input
  g = ∂L/∂x = 2 · d / D

  element        g
        0  -0.6667
        1   0.0000
        2  -0.6667

Remarks

• The mean of the targets, 2.6667, as the prediction for all would cost 0.8889 each, their variance.
  The predictions cost 0.6667 each, 75.0% of that."""
    )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_text_fits_in_100_columns_and_stands_in_line(lang: str) -> None:
    for explanation in cached(lang):
        lines = str(explanation).splitlines()
        assert max(map(columns, lines)) <= 100
        assert not any(line != line.rstrip() for line in lines)
        for step in explanation.steps:
            for piece in blocks_of(step.table.grid(explanation.say), 100):
                _check_alignment(lines, piece)


def _check_alignment(lines: list[str], grid: Grid) -> None:
    """Every cell of a column ends where its heading does, one further where it is marked."""
    marked = [any(row[place].marked for row in grid.rows) for place in range(len(grid.heading))]
    widths = [
        max(columns(name), *(columns(row[place].text) for row in grid.rows), 0) + marked[place]
        for place, name in enumerate(grid.heading)
    ]
    for row in grid.rows:
        expected = "  " + "  ".join(
            " " * (width - columns(cell.text) - mark) + cell.text + ("*" if cell.marked else " " * mark)
            for cell, width, mark in zip(row, widths, marked, strict=True)
        )
        assert expected.rstrip() in lines


def test_wide_tables_are_cut_into_pieces() -> None:
    explanation = losskit.explain("cross_entropy", 100 * torch.randn(2, 40), [3, 4], columns=40, digits=9, lang="en")
    grid = explanation.step("scores").table.grid(explanation.say)
    pieces = list(blocks_of(grid, 100))
    assert len(pieces) > 3
    assert [name for piece in pieces for name in piece.heading[1:]] == list(grid.heading[1:])
    assert all(piece.heading[0] == "sample" for piece in pieces)
    assert max(map(columns, str(explanation).splitlines())) <= 100


def test_a_column_wider_than_the_page_stands_alone() -> None:
    grid = Grid(("row", "a" * 50, "b"), ((Cell("0"), Cell("1"), Cell("2")),), 1)
    assert [piece.heading for piece in blocks_of(grid, 20)] == [("row", "a" * 50), ("row", "b")]


def test_lines_break_at_spaces_and_between_chinese_characters() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("交叉熵损失，对数似然。", 8) == ["交叉熵损", "失，对数", "似然。"]
    assert wrapped("a " * 40, 30, "  ")[1].startswith("  a")
    for text in ("".join(remark.text for remark in CALLS["softmax_twice"](lang=lang).remarks) for lang in LANGUAGES):
        for width in (20, 33, 60):
            lines = wrapped(text, width)
            assert all(columns(line) <= width for line in lines)
            assert "".join(lines).replace(" ", "") == text.replace(" ", "")
            # No line begins with a mark that closes.
            assert not any(line[0] in "，。；：）" for line in lines)


# A terminal.


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_rich(width: int, lang: str) -> None:
    explanation = example(lang)
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(explanation.to_rich(width))
    text = out.getvalue()
    assert max(map(columns, text.splitlines())) <= width
    assert "…" not in text
    for step in explanation.steps:
        grid = step.table.grid(explanation.say)
        for cell in [cell for row in grid.rows for cell in row]:
            assert cell.text in text
    said = "".join(text.split())
    for remark in explanation.remarks:
        assert "".join(remark.text.split()) in said


def test_rich_prints_an_explanation_by_itself() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(example())
    assert "Softmax" in out.getvalue()
    # Nothing is taken for markup.
    assert "x[0]" in out.getvalue()


def test_without_rich_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(
        MissingDependencyError, match=r"^explain: rich tables need rich: pip install 'losskit\[cli\]'\.$"
    ):
        example().to_rich()


# HTML.


class _Tags(HTMLParser):
    """Every tag is closed, in order; the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        # Nothing is fetched and nothing runs.
        assert tag not in ("script", "link", "img", "iframe")
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_html_is_well_formed_and_needs_nothing_else(lang: str) -> None:
    for explanation in cached(lang):
        text = explanation.to_html()
        parser = _Tags()
        parser.feed(text)
        parser.close()
        assert parser.open == []
        said = " ".join(parser.text)
        assert explanation.formula in said
        for remark in explanation.remarks:
            assert remark.text in said
        assert text.startswith("<!DOCTYPE html>")
        assert '<meta charset="utf-8">' in text
        assert f'<div class="losskit-explanation" lang="{"en" if lang == "en" else "zh-Hans"}">' in text
    assert example(lang)._repr_html_() in example(lang).to_html()


def test_html_escapes_what_comes_from_outside() -> None:
    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).norm(dim=-1)

    distance.__name__ = "<script>alert(1)</script>"
    vectors = [torch.randn(2, 3) for _ in range(3)]
    explanation = losskit.explain("triplet_margin_with_distance_loss", *vectors, distance_function=distance)
    assert "<script>" not in explanation._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in explanation._repr_html_()
    assert "<script>" not in explanation.to_markdown().replace(r"\<script\>", "")


# Markdown.


@pytest.mark.parametrize("lang", LANGUAGES)
def test_markdown_tables_have_as_many_cells_in_each_row(lang: str) -> None:
    for explanation in cached(lang):
        cells = []
        for line in explanation.to_markdown().splitlines():
            if line.startswith("|"):
                cells.append(len(re.findall(r"(?<!\\)\|", line)))
            else:
                assert len(set(cells)) <= 1
                cells = []


def test_markdown() -> None:
    text = example().to_markdown()
    assert text.startswith("# cross_entropy · CrossEntropyLoss · classification\n")
    assert "| sample | `x[0]` | `x[1]` | `x[2]` |\n| ---: | ---: | ---: | ---: |\n" in text
    assert "\n| 0 | 0.1000 | **0.2000** | 0.3000 |\n" in text
    assert "`p_c = exp(x_c) / Σ_k exp(x_k)`" in text
    assert r"`\|d\|`" in losskit.explain("huber_loss", [1.0], [0.0]).to_markdown()


# LaTeX.


def _check_latex(text: str) -> None:
    escaped = re.sub(r"\\[\\{}_&%#$]", "", text)
    assert escaped.count("{") == escaped.count("}")
    assert escaped.count("$") % 2 == 0
    names = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    stack: list[str] = []
    for kind, name in names:
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    assert text.count(r"\[") == text.count(r"\]")
    for layout, body in re.findall(r"\\begin\{tabular\}\{(r+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        for row in [line for line in body.splitlines() if line != r"\hline"]:
            assert row.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", row)) == len(layout) - 1
    # Outside of mathematics no character that LaTeX takes for its own.
    words = re.sub(r"\$.*?\$|\\\[.*?\\\]|\\begin\{tabular\}.*?\\end\{tabular\}", "", text, flags=re.DOTALL)
    words = re.sub(r"\\(begin|end)\{\w+\}|\\[A-Za-z]+\*?|\\[{}_&%#$]", "", words)
    assert not re.search(r"[\\_&%#^~<>|]", words), words


@pytest.mark.parametrize("lang", LANGUAGES)
def test_latex_is_well_formed(lang: str) -> None:
    for explanation in cached(lang):
        text = explanation.to_latex()
        _check_latex(text)
        if lang == "en":
            assert text.isascii(), {char for char in text if not char.isascii()}
        else:
            strange = {char for char in text if not char.isascii() and unicodedata.east_asian_width(char) not in "WF"}
            assert strange <= set("“”…")


def test_every_formula_is_mathematics_that_can_be_set() -> None:
    parser = MathTextParser("path")
    found = set()
    for explanation in cached("en"):
        found |= {step.latex for step in explanation.steps}
        found |= {gradient.latex for gradient in explanation.gradients.values()}
        found |= {formula(column.name) for step in explanation.steps for column in step.table.columns}
        found |= {formula(symbol.symbol) for symbol in explanation.symbols}
    assert len(found) > 100
    for latex in found:
        parser.parse(f"${latex}$")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("p_c = exp(x_c) / Σ_k exp(x_k)", r"p_{c} = \exp(x_{c}) / \sum_{k} \exp(x_{k})"),
        ("ℓ ← [t ≠ ignore_index] · ℓ", r"\ell \leftarrow [t \neq \mathrm{ignore\_index}] \cdot \ell"),
        ("max(p · (1 − p), 1e-12)", r"\max(p \cdot (1 - p), 10^{-12})"),
        ("log α_(t−1)(s)", r"\log \alpha_{t-1}(s)"),
        ("∂L/∂x₁", r"\partial L/\partial x_1"),
        ("‖x₁‖²", r"\Vert x_1\Vert^2"),
        ("w₊ · y", r"w_{+} \cdot y"),
        ("-2.061e-09", r"-2.061 \times 10^{-9}"),
        ("2·y", r"2\cdot y"),
    ],
)
def test_formulas_in_latex(text: str, latex: str) -> None:
    assert formula(text) == latex


# JSON.


@pytest.mark.parametrize("lang", LANGUAGES)
def test_json_has_every_digit(lang: str) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    for explanation in cached(lang):
        read = json.loads(explanation.to_json(), parse_constant=refuse)
        assert read == explanation.to_dict()
        assert read["lang"] == lang
        assert [remark["text"] for remark in read["remarks"]] == [remark.text for remark in explanation.remarks]
        assert [step["key"] for step in read["steps"]] == [step.key for step in explanation.steps]
    read = json.loads(example(lang).to_json())
    values = read["steps"][1]["table"]["columns"][0]["values"]
    torch.testing.assert_close(
        torch.tensor(values, dtype=torch.float64), example().step("softmax").value, rtol=0, atol=0
    )
    assert read["result"] == example().result.item()
    assert read["options"]["weight"] == {"shape": [3], "dtype": "float32"}


def test_json_of_what_is_not_finite() -> None:
    explanation = losskit.explain("mse_loss", [float("nan"), float("inf"), 1.0], [0.0, 0.0, 1.0], reduction="none")
    (column,) = explanation.to_dict()["steps"][-1]["table"]["columns"]
    assert column["values"] == ["NaN", "Infinity", 0.0]
    assert [float(value) for value in column["values"]][1] == float("inf")


# All of them.


def test_each_form_shows_the_same_blocks() -> None:
    explanation = example()
    blocks = outline(explanation)
    assert sum(isinstance(block, Grid) for block in blocks) == len(explanation.steps) + len(explanation.gradients)
    for text in (str(explanation), explanation.to_markdown(), explanation.to_html()):
        for number, step in enumerate(explanation.steps, 1):
            assert f"{number}. {step.title}" in text
        assert "1.000e-06" in text


def test_repr_is_short() -> None:
    assert repr(example()) == "<Explanation of cross_entropy: 0.8510>"
    assert repr(example(reduction="none")).startswith("<Explanation of cross_entropy: 2.2039, 0.")
    assert repr(losskit.explain("mse_loss", torch.ones(9), torch.ones(9), reduction="none")) == (
        "<Explanation of mse_loss: 9 losses>"
    )
