"""What README and documentation show, runs and gives what they say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages whose fits take more than three seconds.
SLOW = {"bayes", "equations", "getting_started", "potentials"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def no_windows(monkeypatch, tmp_path):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)


def _snippets(page):
    return FENCE.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
        for page in PAGES
    ],
)
def test_snippets(page):
    """Blocks marked pycon are doctests, blocks marked python have to run; one namespace a page."""
    blocks = [(kind, code) for kind, code in _snippets(page) if kind in ("python", "pycon")]
    if not blocks:
        pytest.skip("no snippets")
    if any("plotting" in code for _, code in blocks):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
    parser, names = doctest.DocTestParser(), {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    for number, (kind, code) in enumerate(blocks):
        if kind == "python":
            try:
                exec(compile(code, f"{page.name}, block {number}", "exec"), names)
            except ImportError as error:
                if "pip install" not in str(error):  # our own words for a missing extra
                    raise
                pytest.skip(str(error))
            continue
        test = parser.get_doctest(code, names, page.name, str(page), 0)
        output: list[str] = []
        runner.run(test, out=output.append, clear_globs=False)
        assert not output, "".join(output)
        names.update(test.globs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages(page):
    """Relative links lead somewhere; those into the gallery to a script that exists."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if re.match(r"\w+:", target):
            continue
        if target.startswith("gallery/"):
            name = Path(target).stem
            assert name == "index" or (ROOT / "examples" / f"{name}.py").exists(), target
        else:
            assert (page.parent / target).exists(), target


def test_the_gallery_prints_wall_times():
    scripts = sorted((ROOT / "examples").glob("plot_*.py"))
    assert len(scripts) >= 10
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert "wall time" in text, script.name
        compile(text, str(script), "exec")
