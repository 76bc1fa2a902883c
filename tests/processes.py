"""Run the command in processes of its own without the seconds that importing torch takes: a server forks them."""

import gc
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# A network small enough that a step takes milliseconds, and a run that writes of everything.
SMALL = ("model.generator.width=1", "model.discriminator.width=1", "batch_size=4")
BUSY = ("log_every=2", "sample_every=5", "checkpoint.every=3", "callback.samples.num=16")
COMMAND = (*SMALL, *BUSY, "ema_halflife_images=20", "steps=12")


@dataclass
class Result:
    status: int
    stderr: str


class Process:
    """One run of the command: `status` is None as long as it goes on."""

    def __init__(self, server: "Server", pid: int, log: Path):
        self.server, self.pid, self.log = server, pid, log
        self.status: int | None = None

    @property
    def stderr(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def until(self, condition: Callable[[], object], timeout: float = 60) -> bool:
        """Wait for the condition; False if the process has ended before."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.server.ended(self.pid):
                return bool(condition())
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.0005)
        return True

    def send(self, signum: int) -> None:
        if self.status is None:
            os.kill(self.pid, signum)  # nobody else takes its number before wait() has seen it end

    def wait(self, timeout: float = 120) -> Result:
        if self.status is None:
            self.status = self.server.wait(self.pid, timeout)
        # The first line is printed before the task can refuse anything.
        return Result(self.status, re.sub(r"^gantrain \S+: [\w-]+\n", "", self.stderr, flags=re.M))


class Server:
    """The other end of serve()."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        self.alive: set[int] = set()

    def ask(self, **request: Any) -> int:
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self.process.stdout.readline())

    def start(self, folder: Path, arguments: tuple[object, ...], *, log: Path | None = None, **options: Any) -> Process:
        log = folder / f"stderr-{time.monotonic_ns()}.txt" if log is None else log
        argv = [str(argument) for argument in arguments]
        pid = self.ask(folder=str(folder), argv=argv, log=str(log), **options)
        self.alive.add(pid)
        return Process(self, pid, log)

    def ended(self, pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def wait(self, pid: int, timeout: float) -> int:
        self.process.stdin.write(json.dumps({"wait": pid}).encode() + b"\n")
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        self.alive.discard(pid)
        assert ready, f"not over after {timeout} s"
        return status

    def close(self) -> None:
        for pid in list(self.alive):
            os.kill(pid, signal.SIGKILL)
            self.wait(pid, 10)
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the command in an empty folder.

    Options: `before`, Python that runs in the process first; `limits`, resource limits by name; `log`, what takes
    stdout and stderr.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    yield lambda *arguments, **options: server.start(folder, arguments, **options)
    for pid in list(server.alive):
        os.kill(pid, signal.SIGKILL)
        server.wait(pid, 10)


@pytest.fixture
def gantrain(start: Callable[..., Process]) -> Callable[..., Result]:
    """Run the command to its end."""
    return lambda *arguments, **options: start(*arguments, **options).wait()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that the command is started from."""
    return tmp_path / "work"


def waited_for_a_core(pid: int) -> float:
    """Seconds in which the process could have run, but others had the cores; 0 where the system does not say."""
    schedule = Path(f"/proc/{pid}/schedstat")
    return int(schedule.read_text().split()[1]) / 1e9 if schedule.is_file() else 0.0


def during(place: str, action: str, *, call: int = 1) -> str:
    """Python for `before`: do the action when the function at the dotted place is called for the n-th time."""
    module, _, name = place.partition(":")
    owner, _, attribute = f"found.{name}".rpartition(".")
    return f"""
def change():
    import functools, importlib, os, shutil, signal, time
    found = importlib.import_module({module!r})
    original, calls = {owner}.{attribute}, []

    @functools.wraps(original)
    def changed(*args, **kwargs):
        calls.append(1)
        if len(calls) == {call}:
            {action}
        return original(*args, **kwargs)

    setattr({owner}, {attribute!r}, changed)

change()
"""


def serve() -> None:
    """Fork a process for every request; nothing here may compute with torch, whose threads do not survive a fork."""
    # What a run imports only when it needs it.
    from importlib import import_module

    for name in ("tasks.train", "models.dcgan", "models.mlp", "losses.wasserstein", "datasets.digits"):
        import_module(f"gantrain.{name}")
    for path in Path(import_module("gantrain.callbacks").__path__[0]).glob("[!_]*.py"):
        import_module(f"gantrain.callbacks.{path.stem}")
    for name in ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "torch._dynamo", "torch.optim"):
        import_module(name)
    # And what they remember from the first use on.
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from gantrain.evaluation.plots import curves

    curves([{"step": step, "loss/generator": 1.0, "loss/discriminator": 1.0} for step in (1, 2)])
    OverridesParser.create().parse_overrides([*COMMAND, "a=[b,c]", "d={e: 1}"])
    gc.collect()
    gc.freeze()  # a collection would touch every page that is shared

    for line in sys.stdin.buffer.raw:  # unbuffered: a child must not inherit the next request
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            become(request)
        print(pid, flush=True)
    os._exit(0)  # without what triton says when it is cleaned up


def become(request: dict[str, Any]) -> None:
    """Be the command that was asked for."""
    from gantrain.__main__ import main

    os.chdir(request["folder"])
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (2, request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(2, 1)
    for name, limit in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, resource.getrlimit(getattr(resource, name))[1]))
    sys.argv = ["gantrain", *request["argv"]]
    status = 0
    try:
        exec(request.get("before", ""), {})
        main()
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    # As Python ends, but for taking torch to pieces, which takes longer than a small run.
    with suppress(Exception):
        threading._shutdown()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
