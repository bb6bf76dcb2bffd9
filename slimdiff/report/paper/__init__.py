"""Tables for a paper: LaTeX and Markdown."""
