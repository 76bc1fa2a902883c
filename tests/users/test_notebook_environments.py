"""What a user sees in Colab or Jupyter, whose variables and files for matplotlib are none of gantrain's business."""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "gantrain"

DRAW = """
import hashlib, os, sys
from gantrain.evaluation.agg import Figure, FigureCanvasAgg
figure = Figure()
canvas = FigureCanvasAgg(figure)
figure.add_subplot().plot([1, 2], label="line")
figure.suptitle("title")
canvas.draw()
assert "matplotlib.pyplot" not in sys.modules
print(hashlib.sha256(canvas.buffer_rgba()).hexdigest(), os.environ.get("MPLBACKEND"))
"""


def draw(folder: Path, **environment: str) -> list[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "MATPLOTLIB"))}
    done = subprocess.run(
        [sys.executable, "-c", DRAW], cwd=folder, env=plain | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_pictures_do_not_depend_on_the_variables_and_files_of_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\n")
    (tmp_path / "empty").mkdir()
    expected, _ = draw(tmp_path / "empty")
    for backend in ("module://matplotlib_inline.backend_inline", "no_such_backend"):
        found, left = draw(tmp_path, MPLBACKEND=backend, MATPLOTLIBRC=str(tmp_path / "nowhere"))
        assert found == expected
        assert left == backend  # the variable stays for the user's own code


def test_only_one_module_imports_matplotlib() -> None:
    found = [path.name for path in PACKAGE.rglob("*.py") if "import matplotlib" in (text := path.read_text()) or
             "from matplotlib" in text]  # fmt: skip
    assert found == ["agg.py"]
