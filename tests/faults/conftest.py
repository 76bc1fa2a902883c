"""Fixtures of the fault tests: the command in forked processes, and uninterrupted runs to compare with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Server, gantrain, server, start, work

__all__ = ["gantrain", "server", "start", "work"]


@pytest.fixture(scope="session")
def reference_run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of an uninterrupted run of a command, which is made once per session."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*command: str) -> Path:
        if command not in made:
            folder = tmp_path_factory.mktemp("reference_run")
            done = server.start(folder, (*command, "run_dir=out")).wait(600)
            assert done.status == 0, done.stderr
            made[command] = folder / "out"
        return made[command]

    return run
