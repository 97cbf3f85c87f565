"""A page for each loss: formula, picture, an explained example, and what its docstring says."""

import inspect
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
import matplotlib.pyplot as plt

import losskit
from losskit import functional
from losskit.catalog import LOSSES, LossInfo

_LOG_PROBS = [[-0.4170, -1.4170, -2.4170], [-2.4076, -1.4076, -0.4076]]
# What each function is shown at work on: its tensors, in their order, and its options.
EXAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "binary_cross_entropy": (([0.9, 0.2, 0.6], [1.0, 0.0, 0.0]), {}),
    "binary_cross_entropy_with_logits": (([2.0, -1.0, 0.5], [1.0, 0.0, 0.0]), {}),
    "clip_loss": (([[1.0, 0.2], [0.1, 1.0], [0.6, 0.6]], [[0.9, 0.0], [0.3, 0.8], [1.0, 0.7]], 10.0), {}),
    "cosine_embedding_loss": (([[1.0, 0.0], [1.0, 2.0]], [[0.6, 0.8], [2.0, 1.0]], [1, -1]), {"margin": 0.5}),
    "cross_entropy": (([[0.1, 0.2, 0.3], [2.0, 0.5, -1.0]], [1, 0]), {}),
    "ctc_loss": (([[_LOG_PROBS[0]], [_LOG_PROBS[1]], [_LOG_PROBS[0]]], [[1, 2]], [3], [2]), {}),
    "gaussian_nll_loss": (([1.0, 2.0, 3.0], [1.5, 2.0, 1.0], [1.0, 0.5, 2.0]), {}),
    "hinge_embedding_loss": (([0.3, 0.8, 1.4], [1, -1, -1]), {}),
    "huber_loss": (([1.0, 2.0, 3.0], [1.0, 2.5, 5.0]), {"delta": 1.0}),
    "info_nce": (([[1.0, 0.2], [0.1, 1.0]], [[0.9, 0.0], [0.3, 0.8]]), {"temperature": 0.5}),
    "kl_div": ((_LOG_PROBS, [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), {"reduction": "batchmean"}),
    "l1_loss": (([1.0, 2.0, 3.0], [1.0, 2.0, 5.0]), {}),
    "linear_cross_entropy": (([[1.0, 0.5], [0.2, -1.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 2]), {}),
    "margin_ranking_loss": (([0.5, 1.5], [1.0, 0.2], [1, 1]), {"margin": 0.1}),
    "mse_loss": (([1.0, 2.0, 3.0], [1.0, 2.0, 5.0]), {}),
    "multi_margin_loss": (([[0.1, 0.2, 0.4, 0.8], [1.5, 0.3, 0.2, 0.1]], [3, 0]), {}),
    "multilabel_margin_loss": (([[0.1, 0.2, 0.4, 0.8]], [[3, 0, -1, 1]]), {}),
    "multilabel_soft_margin_loss": (([[0.5, -1.0, 2.0]], [[1.0, 0.0, 0.0]]), {}),
    "nll_loss": ((_LOG_PROBS, [0, 1]), {}),
    "poisson_nll_loss": (([0.5, 1.0, 2.0], [1.0, 3.0, 7.0]), {}),
    "siglip_loss": (([[1.0, 0.2], [0.1, 1.0]], [[0.9, 0.0], [0.3, 0.8]], 10.0, -5.0), {}),
    "smooth_l1_loss": (([1.0, 2.0, 3.0], [1.0, 2.5, 5.0]), {"beta": 1.0}),
    "soft_margin_loss": (([2.0, -0.5], [1.0, 1.0]), {}),
    "triplet_margin_loss": (([[0.0, 0.0]], [[0.6, 0.8]], [[1.2, 0.5]]), {}),
    "triplet_margin_with_distance_loss": (([[0.0, 0.0]], [[0.6, 0.8]], [[1.2, 0.5]]), {}),
}


def write(folder: Path) -> None:
    """Write the pages of all losses, and their pictures, into `folder`."""
    folder.mkdir(exist_ok=True)
    for info in LOSSES:
        _draw(info, folder / f"{info.name}.svg")
        _replace(folder / f"{info.name}.md", page(info))


def page(info: LossInfo) -> str:
    """The page of one loss, in MyST's Markdown."""
    arguments, options = EXAMPLES[info.name]
    call = ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in options.items())])
    parts = [
        f"# {info.name}",
        f"`losskit.functional.{info.name}`, `losskit.{info.module}`: {info.task}.",
        # MathML, which browsers draw by themselves: no script from elsewhere.
        f'<p class="formula">{latex2mathml.converter.convert(info.latex, display="block")}</p>',
        f"![value and gradient of {info.name}]({info.name}.svg)",
        _facts(info),
        _body(info),
        f"## Explained\n\n```python\nlosskit.explain({info.name!r}, {call})\n```",
        f"```text\n{losskit.explain(info.name, *arguments, lang='en', **options)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(info: LossInfo) -> str:
    rows = {
        "input": info.input,
        "target": f"{info.target} ({info.target_dtype})",
        "output layer": info.output_layer,
        "values": f"{info.range}, in {info.unit}" if info.unit != "none" else info.range,
        "`mean` divides by": info.mean_over,
        "outliers": info.outliers,
        "relatives": _links(info.relatives),
        "try next": _links(info.try_next),
    }
    cells = "\n".join(f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{cells}"


def _links(names: tuple[str, ...]) -> str:
    return ", ".join(f"[{name}]({name}.md)" for name in names)


def _body(info: LossInfo) -> str:
    """The docstring, whose sections become those of the page."""
    function = getattr(functional, info.name)
    text = inspect.getdoc(function) or ""
    # Options go one below the other, as in a reader's own code.
    signature = ",\n    ".join(str(parameter) for parameter in inspect.signature(function).parameters.values())
    text = re.sub(r"^\*\*([^*]+)\*\*:\s*", r"\n### \1\n\n", text, flags=re.MULTILINE)
    text = re.sub(
        r"(?:^>>>.*\n?(?:^(?!\n).+\n?)*)+", lambda code: f"```pycon\n{code[0].rstrip()}\n```\n", text, flags=re.M
    )
    return f"## What it is\n\n```python\nlosskit.functional.{info.name}(\n    {signature},\n)\n```\n\n{text}"


def _draw(info: LossInfo, path: Path) -> None:
    value, _ = losskit.plot.curve(info.name)
    losskit.plot.save(value, path)
    plt.close(value.figure)


def _replace(path: Path, text: str) -> None:
    # Left alone where nothing has changed: Sphinx then has nothing to build anew.
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
