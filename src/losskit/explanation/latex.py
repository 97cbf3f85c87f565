"""Formulas as they are printed, for LaTeX's mathematics."""

import re

_LETTERS = {
    "α": r"\alpha",
    "β": r"\beta",
    "γ": r"\gamma",
    "δ": r"\delta",
    "ε": r"\varepsilon",
    "κ": r"\kappa",
    "λ": r"\lambda",
    "π": r"\pi",
    "σ": r"\sigma",
    "τ": r"\tau",
    "Σ": r"\sum",
    "Π": r"\prod",
    "ℓ": r"\ell",
    "∂": r"\partial",
    "∞": r"\infty",
    "·": r"\cdot",
    "×": r"\times",
    "±": r"\pm",
    "−": "-",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "∈": r"\in",
    "∉": r"\notin",
    "←": r"\leftarrow",
    "→": r"\to",
    "…": r"\dots",
    "‖": r"\Vert",
    "²": "^2",
    "₁": "_1",
    "₂": "_2",
    "₊": "_{+}",
    "⁻": "^{-}",
    "′": "'",
    "%": r"\%",
}
_FUNCTIONS = ("cos", "exp", "log", "max", "min", "tanh")
# A number, a word, a subscript, spaces, or one character.
_TOKEN = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z]{2,}(?:_[A-Za-z]+)*|_\([^()]*\)|_\w+|\s+|.", re.DOTALL)


def formula(text: str) -> str:
    """A formula as LaTeX.

    **Example**:

    >>> print(formula("p_c = exp(x_c) / Σ_k exp(x_k)"))
    p_{c} = \\exp(x_{c}) / \\sum_{k} \\exp(x_{k})
    """
    made = ""
    for match in _TOKEN.finditer(text):
        piece = _piece(match.group())
        # A macro ends before what is no letter.
        made += " " + piece if re.search(r"\\[A-Za-z]+$", made) and piece[:1].isalpha() else piece
    return made


def _piece(token: str) -> str:
    if token.startswith("_") and len(token) > 1:
        return f"_{{{formula(token[1:].removeprefix('(').removesuffix(')'))}}}"
    if re.fullmatch(r"\d.*e-?\d+", token):
        factor, _, power = token.partition("e")
        return f"10^{{{int(power)}}}" if factor == "1" else rf"{factor} \times 10^{{{int(power)}}}"
    if re.fullmatch(r"[A-Za-z]{2,}(_[A-Za-z]+)*", token):
        return rf"\{token}" if token in _FUNCTIONS else rf"\mathrm{{{token}}}".replace("_", r"\_")
    return _LETTERS.get(token, token)
