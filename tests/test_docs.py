"""The pages: what they show is what happens, in each language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import losskit
from losskit.catalog import LOSSES, LossInfo

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)\)")

loss_pages = pytest.importorskip("docs.loss_pages", reason="the packages of losskit[docs] are not installed")


def test_every_loss_has_an_example() -> None:
    assert sorted(loss_pages.EXAMPLES) == [info.name for info in LOSSES]


@pytest.mark.parametrize("info", LOSSES, ids=lambda info: info.name)
def test_the_page_of_a_loss(info: LossInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    text = loss_pages.page(info)
    assert text.startswith(f"# {info.name}\n")
    for word in (
        info.input,
        info.output_layer,
        info.outliers,
        info.mean_over,
        "### Gradient",
        "### Edge cases",
        "<math",
    ):
        assert word.replace("|", "\\|") in text
    # The call that the page shows gives the explanation below it.
    call, shown = re.findall(r"```python\n(losskit\.explain.*?)\n```\n\n```text\n(.*?)\n```", text, re.DOTALL)[0]
    assert str(eval(call, {"losskit": losskit})) == shown


def test_the_chinese_readme_has_the_code_and_links_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert CODE.findall(chinese) == CODE.findall(english)
    # Each names the other, and so one link differs.
    assert sorted(LINK.findall(chinese)) == sorted(
        "README.md" if link == "README.zh-CN.md" else link for link in LINK.findall(english)
    )
    assert chinese.count("\n## ") == english.count("\n## ")
    tables = [
        [line.split(" | ")[1:] for line in text.splitlines() if re.match(r"\| .*\d", line)]
        for text in (chinese, english)
    ]
    assert tables[0] == tables[1]
