"""What the tests of faults share: the command in forked processes, and runs that nothing disturbed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Server, gantrain, server, start, work

__all__ = ["gantrain", "server", "start", "work"]


@pytest.fixture(scope="session")
def reference_run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give the folder of a run that nothing disturbed, made once for each command."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*command: str) -> Path:
        if command not in made:
            folder = tmp_path_factory.mktemp("reference_run")
            done = server.start(folder, (*command, "run_dir=out")).wait(600)
            assert done.status == 0, done.stderr
            made[command] = folder / "out"
        return made[command]

    return run
