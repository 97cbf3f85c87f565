"""Without transformers there is nothing to patch."""

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
