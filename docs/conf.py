"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import loss_pages

import losskit

project = "losskit"
author = "the losskit developers"
release = losskit.__version__
extensions = ["myst_parser"]
# Links to the sections of a page.
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"losskit {release}"
html_show_copyright = False
html_copy_source = False
exclude_patterns = ["README.md"]


def setup(app):
    app.connect("builder-inited", lambda _: loss_pages.write(Path(__file__).parent / "loss"))
