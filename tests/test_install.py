"""The package is installed from a wheel, or editable (with GANTRAIN_FULL=1), and runs from an empty folder."""

import json
import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")


def environment(folder: Path) -> Path:
    """Make a virtual environment that shares the dependencies of this one, so that nothing is downloaded."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], cwd=cwd, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", *BUILD, "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("gantrain-*.whl")
    return built


def test_the_wheel_holds_configs_data_and_notice_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"gantrain/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped <= names
    assert {f"gantrain/datasets/digits_data/{n}" for n in ("NOTICE", "t10k-images-idx3-ubyte.gz")} <= names
    assert "gantrain/evaluation/features/digits_weights.npz" in names
    assert not [name for name in names if name.startswith(("tests", "conf", "docs"))]
    assert wheel.stat().st_size < 3_000_000


# Whoever works on gantrain has an editable installation, and would see at once that it is broken.
@pytest.mark.parametrize("kind", ["wheel", *(["editable"] if os.environ.get("GANTRAIN_FULL") == "1" else [])])
def test_an_installed_command_runs_from_an_empty_folder(kind: str, wheel: Path, tmp_path: Path) -> None:
    binaries = environment(tmp_path / "environment")
    what = [wheel] if kind == "wheel" else ["--editable", ROOT]
    run(binaries / "python", "-m", "pip", "install", "--ignore-installed", *BUILD, *what, cwd=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    where = run(
        binaries / "python", "-c", "import gantrain.config as c; print(c.__file__, c.CONF)", cwd=empty
    ).stdout.split()
    home = tmp_path / "environment" if kind == "wheel" else ROOT
    assert all(Path(path).is_relative_to(home) for path in where)
    small = ("model.generator.width=2", "model.discriminator.width=2", "batch_size=4", "steps=2", "run_dir=sweep")
    # The launcher is a plug-in of Hydra, in a package of its own; it starts the run as a single command.
    run(binaries / "gantrain", "-m", "hydra/launcher=devices", "seed=0", *small, cwd=empty)
    assert (empty / "sweep/0/samples/step_00000002.png").is_file()
    assert "metric/fid_digits" in json.loads((empty / "sweep/0/run.json").read_text())["metrics"]["last"]
