"""Sphinx configuration: `make docs`."""

import os
import re
import warnings

import matplotlib

matplotlib.use("agg")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore", message=".*agg, which is a non-GUI backend.*")

import skfokker  # noqa: E402

project = "skfokker"
author = "the skfokker developers"
copyright = author
version = release = skfokker.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_memory": False,
    "abort_on_example_error": False,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": True,
    "capture_repr": (),
    "download_all_examples": False,
    "copyfile_regex": "",
}
suppress_warnings = ["config.cache", "toc.empty_glob"]

html_theme = "pydata_sphinx_theme"
html_title = "skfokker"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "use_edit_page_button": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False


MARKUP = re.compile(r"(?<!\\)\||(?<=\()\*(?=\w)|(?<=, )\*(?=\w+\))")


def plain_bars(app, what, name, obj, options, lines):
    """Docstrings write \\|x\\|, f(*args), (n, *shape) as readers would; for reST that is markup."""
    block = None  # indentation of a math directive we are in
    for k, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if ".. math::" in line:
            block = indent
        if block is None and line.lstrip()[:1] not in ("|", "+"):
            parts = re.split(r"(:math:`[^`]*`|``[^`]*``|`[^`]*`)", line)
            parts[::2] = [MARKUP.sub(r"\\\g<0>", p) for p in parts[::2]]
            lines[k] = "".join(parts)


def setup(app):
    app.connect("autodoc-process-docstring", plain_bars, priority=900)
