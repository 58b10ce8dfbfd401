"""The documentation: `sphinx-build -W docs build/docs` writes it, offline."""

import shutil
import sys
from pathlib import Path

from latex2mathml.converter import convert

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "tools")]

from reference_pages import write_reference  # noqa: E402

from meanfield.version import VERSION  # noqa: E402

project = "meanfield"
author = "The meanfield developers"
copyright = "The meanfield developers"
release = version = VERSION

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
# Notebooks are committed executed; only the pages of this folder run at build.
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["*.ipynb"]
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_output_stderr = "remove"
exclude_patterns = ["build"]
suppress_warnings = ["mystnb.unknown_mime_type"]
# Our own references ({py:obj}) must lead somewhere; types in signatures need not.
nitpicky = True
nitpick_ignore_regex = [(r"py:(class|data|exc|func|meth)", r".*")]
copybutton_exclude = ".linenos, .gp, .go"
python_maximum_signature_line_length = 72

html_theme = "pydata_sphinx_theme"
html_title = "meanfield"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"gallery": [], "index": []}
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def write_pages(app):
    """Write what is made from the package and the rest of the repository."""
    made = HERE / "generated"
    shutil.rmtree(made, ignore_errors=True)
    write_reference(made / "reference")
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        (made / "notebooks").mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, made / "notebooks")


def link_notebooks(app, docname, source):
    """Send links to notebooks, which lie outside this folder, to their copies."""
    source[0] = source[0].replace("](../../notebooks/", "](/generated/notebooks/")


def write_math(writer, node):
    """Equations as MathML, which browsers show without a script."""
    import docutils.nodes

    display = "block" if isinstance(node, docutils.nodes.math_block) else "inline"
    writer.body.append(convert(node.astext(), display=display))
    raise docutils.nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    app.connect("config-inited", lambda app, config: write_pages(app))
    app.connect("source-read", link_notebooks)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(write_math, None),
        block_renderers=(write_math, None),
    )


html_math_renderer = "mathml"
