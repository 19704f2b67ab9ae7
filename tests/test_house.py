"""The house: what may import what, and where a family is asked for by its name."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import skfokker

ROOT = Path(skfokker.__file__).parent

#: Packages from the ground up: none imports from one that stands above it.
STOREYS = ("potentials", "dynamics", "reference", "flows", "schemes", "bayes", "benchmark")

#: Imports within functions that close a circle, and what they are for.
LATE = {("bayes", "estimator"): "the sampler fits; a start may be one of its Laplace modes"}


def modules():
    """Dotted names and files."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = (ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name, late):
    """Modules of the package that one imports when it is imported; with ``late``, ever."""
    path = MODULES[name]
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {base}
    return found & MODULES.keys() - {name}


def room(name):
    """The package or the module of the root that a module is part of."""
    return (name.split(".") + ["root"])[1]


def graph(late, of=lambda name: name):
    nodes = {of(name): set() for name in MODULES}
    for name in MODULES:
        nodes[of(name)] |= {of(other) for other in imports(name, late)} - {of(name)}
    return nodes


@pytest.mark.parametrize("of", [lambda name: name, room], ids=["modules", "packages"])
def test_no_circles(of):
    assert list(TopologicalSorter(graph(False, of)).static_order())  # or a CycleError names it


def test_circles_that_functions_close_are_known():
    rooms = graph(True, room)
    for start, end in LATE:
        rooms[start].remove(end)
    assert list(TopologicalSorter(rooms).static_order())


def test_no_package_imports_from_above():
    rooms = graph(True, room)
    for height, name in enumerate(STOREYS):
        assert not rooms[name] & set(STOREYS[height + 1 :]), name


def test_families_are_asked_for_by_name_where_is_planned():
    """Elsewhere a family says by an attribute or a method what it can do."""
    question = re.compile(r"isinstance\([^()]*,\s*(\w+Flow|\w+Solver|\w+Nested)\)")
    asked = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES.values()
        if question.search(path.read_text(encoding="utf-8"))
    }
    assert asked <= {"solver.py", "schemes/least_squares.py"}


def test_the_tree_of_the_page_is_in_the_order_of_the_imports():
    """From the ground up: no line imports from one below it."""
    page = ROOT.parent / "docs" / "house.md"
    if not page.exists():
        pytest.skip("not in a checkout")
    tree = re.search(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    heights, rooms = {}, graph(False, room)
    for height, line in enumerate(tree.splitlines()[1:]):
        names = re.split(r"\s{3,}", line.strip())[0].split()
        heights |= {name.strip("/"): height for name in names}
    assert heights.keys() <= rooms.keys() and {"flows", "estimator"} <= heights.keys()
    for name, height in heights.items():
        above = {other for other in rooms[name] if heights.get(other, 0) > height}
        assert not above, f"{name} imports from {above}"
