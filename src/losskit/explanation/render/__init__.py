"""An explanation as text, in a terminal, as HTML, Markdown, LaTeX and JSON."""
