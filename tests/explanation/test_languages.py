"""English and Chinese: both complete, neither with words of the other, chosen by the locale."""

import inspect
import re
import string

import pytest
import torch

import losskit
from explanation.provoked import CALLS, explanations
from losskit import catalog, functional
from losskit.explanation.language import CATALOGUES, Messages, default_language
from losskit.explanation.messages import en, zh

CHINESE = re.compile(r"[一-鿿]")
# Names of mathematics and of PyTorch, which are the same in both languages.
NAMES = {
    *("clamp", "cos", "exp", "ln", "log", "lse", "max", "min", "sign", "tanh", "nat", "NaN"),
    *("softmax", "Softmax", "sigmoid", "Sigmoid", "Softplus", "softplus", "log_softmax", "argmax", "reshape"),
    *("float64", "float32", "bfloat16", "float16", "int64", "uint8", "int32", "bool", "complex64"),
    *("True", "False", "mean", "none", "sum", "batchmean", "zero", "raise", "nan", "reference", "PairwiseDistance"),
}


def placeholders(message: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(message) if name is not None)


def test_both_catalogues_have_the_same_messages_with_the_same_places() -> None:
    assert list(en.MESSAGES) == list(zh.MESSAGES)
    for key, message in en.MESSAGES.items():
        assert placeholders(message) == placeholders(zh.MESSAGES[key]), key
        assert message
        assert zh.MESSAGES[key]


def test_no_language_has_words_of_the_other() -> None:
    for key, message in en.MESSAGES.items():
        assert not CHINESE.search(message), key
    for key, message in zh.MESSAGES.items():
        # Full-width marks between Chinese characters.
        assert not re.search(r"[一-鿿][,;:?!]", message), key
        assert message == en.MESSAGES[key] or CHINESE.search(message) or key.startswith("phrase."), key


def test_catalogued_tasks_and_units_have_words() -> None:
    for info in catalog.LOSSES:
        for catalogue in CATALOGUES.values():
            assert f"task.{info.task}" in catalogue
            assert f"unit.{info.unit}" in catalogue


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_message_is_used_and_every_explanation_is_in_one_language(
    lang: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[str] = set()
    original = Messages.__call__

    def recorded(self: Messages, key: str, **values: object) -> str:
        used.add(key)
        return original(self, key, **values)

    monkeypatch.setattr(Messages, "__call__", recorded)
    known = NAMES | {info.name for info in catalog.LOSSES} | {info.module for info in catalog.LOSSES}
    for info in catalog.LOSSES:
        known |= set(inspect.signature(getattr(functional, info.name)).parameters)
    for explanation in explanations(lang):
        text = str(explanation)
        if lang == "en":
            assert not CHINESE.search(text)
        else:
            words = set(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", text))
            # Letters with their subscripts: x_c, W_ck.
            strange = {word for word in words - known if not re.fullmatch(r"[A-Za-z]?(_[A-Za-z0-9]{0,2})?", word)}
            assert strange == set()
            assert CHINESE.search(text)
    assert set(CATALOGUES[lang]) - used == set()


def test_the_words_of_the_catalogs_formulas_are_translated() -> None:
    say = Messages("zh", 4)
    for info in catalog.LOSSES:
        words = set(re.findall(r"[a-z]{2,}", say.formula(info.formula)))
        # The two forms of Poisson's loss are shown one at a time.
        assert words <= {"cos", "exp", "log", "max", "margin", "eps", "var", "softplus", "or"}
        assert Messages("en", 4).formula(info.formula) == info.formula
    huber = losskit.explain("huber_loss", [1.0], [2.0], lang="zh")
    assert huber.formula == "(x − y)²/2 若 |x − y| ≤ δ, 否则 δ·(|x − y| − δ/2)"
    assert r"\text{否则}" in huber.latex
    assert losskit.explain("poisson_nll_loss", [1.0], [2.0], lang="zh").formula == "exp(x) − y · x"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LANG": "C", "LC_MESSAGES": "de_DE", "LC_ALL": "zh_SG.utf8"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_locale_chooses_the_language(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_language() == expected
    assert losskit.explain("mse_loss", [1.0], [2.0]).lang == expected
    assert losskit.explain("mse_loss", [1.0], [2.0], lang="en").lang == "en"


def test_the_language_changes_no_number() -> None:
    for key, call in CALLS.items():
        one, other = call(lang="en"), call(lang="zh")
        assert [step.key for step in one.steps] == [step.key for step in other.steps], key
        for mine, theirs in zip(one.steps, other.steps, strict=True):
            torch.testing.assert_close(mine.value, theirs.value, rtol=0, atol=0, equal_nan=True)
        assert [remark.key for remark in one.remarks] == [remark.key for remark in other.remarks]
