"""What `import losskit` leaves for later."""

import pytest
from fresh_process import output_of

import losskit


def test_names_are_there_and_load_when_asked_for() -> None:
    code = """
        import sys, losskit
        print([name in dir(losskit) for name in ("plot", "suggest")])
        rooms = ("losskit.plot", "losskit.suggestion", "losskit.tasks")
        print([name for name in sys.modules if name.startswith(rooms)])
        print(losskit.suggest("counts")[0].loss, losskit.plot.__name__, "losskit.plot.curves" in sys.modules)
        print([name for name in ("matplotlib", "numpy.ma", "rich") if name in sys.modules])
    """
    assert output_of(code).splitlines() == [
        "[True, True]",
        "[]",
        "poisson_nll_loss losskit.plot True",
        "[]",
    ]


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^module 'losskit' has no attribute 'plots'$"):
        losskit.plots  # noqa: B018
    assert not hasattr(losskit, "__path_of_nothing__")
