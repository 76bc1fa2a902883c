"""The code stays small and without import cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "gantrain").rglob("*.py")}


def imports(path: Path) -> set[str]:
    """List the modules of gantrain that a file imports, also within functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & FILES.keys()


def test_no_modules_import_each_other() -> None:
    graph = {name: imports(path) - {name} for name, path in FILES.items()}
    assert sum(map(len, graph.values())) > 300
    TopologicalSorter(graph).prepare()  # raises CycleError, which lists the cycle


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name: str) -> None:
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= (150 if name == "gantrain.tasks.train" else 350)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = 100 if (name, node.name) == ("gantrain.train", "train") else 60
            assert node.end_lineno - node.lineno < limit, node.name
