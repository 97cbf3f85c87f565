"""English and Chinese: both complete, neither with words of the other, chosen by the locale."""

import inspect
import re
import string
from collections.abc import Iterator

import pytest
import torch
from cases import ALL_CASES

import losskit
from explanation.provoked import CALLS
from losskit import catalog, functional
from losskit.explanation import Explanation
from losskit.explanation.language import CATALOGUES, Messages, default_language
from losskit.explanation.messages import en, zh

CHINESE = re.compile(r"[一-鿿]")
# Names of mathematics and of PyTorch, which are the same in both languages.
NAMES = {
    *("clamp", "cos", "exp", "ln", "log", "max", "min", "sign", "nat", "NaN"),
    *("softmax", "Softmax", "sigmoid", "Sigmoid", "Softplus", "softplus", "log_softmax", "argmax", "reshape"),
    *("float64", "float32", "bfloat16", "float16", "int64", "uint8", "int32", "bool", "complex64"),
    *("True", "False", "mean", "none", "sum", "batchmean", "zero", "raise", "nan", "reference", "PairwiseDistance"),
}


def placeholders(message: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(message) if name is not None)


def explanations(lang: str) -> Iterator[Explanation]:
    """Of every loss and variant, of large and unusual inputs, and with every remark."""
    for case in ALL_CASES:
        for variant in case.variants:
            call = case.make(variant, case.shapes[0], torch.float32)
            mask = torch.ones(call.run(case.function, reduction="none").shape, dtype=torch.bool)
            for more in ({}, {"mask": mask, "sample_weight": mask.float()}, {"reduction": "sum"}):
                yield losskit.explain(case.name, call.input, call.target, **call.kwargs, **more, lang=lang)
        large = (20, 3, 20) if case.name == "ctc_loss" else (20, 20)
        call = case.make("plain", large, torch.float32)
        yield losskit.explain(case.name, call.input, call.target, **call.kwargs, lang=lang, rows=3, columns=4)
        yield losskit.explain(case.name, call.input, call.target, **call.kwargs, lang=lang, reduction="none")
    log_probs = torch.randn(30, 4, 20).log_softmax(2)
    labels = torch.randint(1, 20, (4, 12))
    yield losskit.explain("ctc_loss", log_probs, labels, (30,) * 4, (12,) * 4, lang=lang)
    yield losskit.explain("ctc_loss", [[-1.0, -0.5]], [1], (1,), (1,), lang=lang, mask=False)
    yield losskit.explain("kl_div", [[-1.0, -0.5]], [[0.5, 0.5]], reduction="batchmean", lang=lang)
    yield losskit.explain("nll_loss", [-800.0, 0.0], 0, lang=lang)
    vectors = [torch.randn(2, 3) for _ in range(3)]
    yield losskit.explain(losskit.TripletMarginWithDistanceLoss(swap=True), *vectors, lang=lang)
    for call in CALLS.values():
        yield call(lang=lang)
    yield losskit.explain("gaussian_nll_loss", [1.0, 2.0], [1.5, 2.0], [4.0, 4.0], lang=lang)
    yield losskit.explain("cross_entropy", [[0.0, 0.0]], [1], lang=lang)


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
        assert message == en.MESSAGES[key] or CHINESE.search(message) or key.startswith(("phrase.", "percent")), key


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
            words = {word for word in re.findall(r"[A-Za-z_][A-Za-z_0-9]*", text) if len(word) > 1}
            # Letters with their subscripts: x_c, W_ck.
            strange = {word for word in words - known if not re.fullmatch(r"[A-Za-z]?_[a-z]{1,2}", word)}
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
