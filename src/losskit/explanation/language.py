"""Which language an explanation speaks, and how it finds its words."""

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from losskit.errors import LosskitValueError
from losskit.explanation.digits import number
from losskit.explanation.messages import en, zh

CATALOGUES: Mapping[str, Mapping[str, str]] = {"en": en.MESSAGES, "zh": zh.MESSAGES}


def default_language() -> str:
    """Chinese in a Chinese locale, English elsewhere."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"


class Messages:
    """The messages of one language, and numbers with so many decimals in them.

    **Example**:

    >>> Messages("en", 4)("row.sample_at", index=3)
    'sample 3'
    """

    def __init__(self, lang: str, digits: int) -> None:
        if lang not in CATALOGUES:
            raise LosskitValueError(f"explain: lang must be 'en' or 'zh', got {lang!r}.")
        self.lang = lang
        self.digits = digits
        self._catalogue = CATALOGUES[lang]

    def __call__(self, key: str, **values: Any) -> str:
        return self._catalogue[key].format(**{name: self.shown(value) for name, value in values.items()})

    def shown(self, value: Any) -> str:
        """A value as it stands in a sentence."""
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            return self.shown(value.tolist())
        if isinstance(value, (tuple, list)):
            return ", ".join(map(self.shown, value))
        return number(value, self.digits)

    def percent(self, share: float) -> str:
        return f"{100 * share:.1f}%"

    def formula(self, formula: str) -> str:
        """A formula of the catalog, whose few words are translated."""
        for key in en.MESSAGES:
            if key.startswith("phrase."):
                formula = re.sub(rf"(?<![\w\\]){en.MESSAGES[key]}(?!\w)", self(key), formula)
        return formula
