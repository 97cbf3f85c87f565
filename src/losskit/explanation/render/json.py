"""An explanation as JSON."""

import json
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from losskit.explanation.language import Messages
from losskit.explanation.render.outline import described

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation


def as_dict(explanation: "Explanation") -> dict[str, Any]:
    say, loss = explanation.say, explanation.loss
    made = {
        "loss": loss.name,
        "module": loss.module,
        "task": loss.task,
        "unit": loss.unit,
        "lang": explanation.lang,
        "data": {name: _argument(value, say) for name, value in explanation.data.items()},
        "options": {name: _argument(value, say) for name, value in explanation.options.items()},
        "formula": {"text": explanation.formula, "latex": explanation.latex},
        "symbols": [
            {"symbol": symbol.symbol, "latex": symbol.latex, "meaning": symbol.meaning, "value": symbol.value}
            for symbol in explanation.symbols
        ],
        "notes": list(explanation.notes),
        "steps": [
            {
                "key": step.key,
                "title": step.title,
                "about": step.about,
                "formula": {"text": step.formula, "latex": step.latex},
                "table": step.table.as_dict(),
            }
            for step in explanation.steps
        ],
        "result": explanation.result.item() if explanation.result.ndim == 0 else None,
        "value": explanation.value.item() if explanation.value.ndim == 0 else None,
        "gradients": [
            {
                "name": gradient.name,
                "formula": {"text": gradient.formula, "latex": gradient.latex},
                "table": gradient.table.as_dict(),
            }
            for gradient in explanation.gradients.values()
        ],
        "remarks": [
            {"key": remark.key, "text": remark.text, "values": dict(remark.values)} for remark in explanation.remarks
        ],
    }
    cleaned: dict[str, Any] = _finite(made)
    return cleaned


def _argument(value: Any, say: Messages) -> Any:
    """Tensors by their shape: what they hold is in the tables."""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return value if isinstance(value, (str, int, float, list, tuple)) else described(value, say)


def render(explanation: "Explanation") -> str:
    return json.dumps(as_dict(explanation), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, complex):
        return [_finite(value.real), _finite(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
