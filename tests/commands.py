"""The command in tests: in this process, or in a process of its own."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from one_model import with_one_model

from gantrain.command.cli import main
from gantrain.command.folders import claim_folder

ROOT = Path(__file__).parents[1]


@dataclass
class Result:
    status: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        self.stderr = without_first_line(self.stderr)


def without_first_line(stderr: str) -> str:
    """Remove the line with the version and the name of the run, which is printed before the task starts."""
    return re.sub(r"^gantrain \S+: [\w-]+(?: \(the default.*\))?\n", "", stderr, flags=re.M)


Command = Callable[..., Result]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process, and return its exit status."""
    GlobalHydra.instance().clear()
    claim_folder.cache_clear()
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["gantrain", *with_one_model(arguments)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train a run that several tests share; they copy its folder."""

    def run(*arguments: object) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert call(patch, *arguments, "run_dir=run", f"statistics_dir={folder}/statistics") == 0
        return folder / "run"

    return run


@pytest.fixture
def gantrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process, in an empty folder, because importing torch takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = call(monkeypatch, *arguments)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in a separate process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, timeout: float = 300) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "gantrain", *with_one_model(arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run
