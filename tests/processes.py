"""Run the command in forked processes: a server imports torch once, and forks a process for each command."""

import gc
import json
import os
import re
import resource
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import forks
import pytest
from one_model import with_one_model

# Networks so small that a step takes milliseconds, and every kind of output every few steps.
SMALL = ("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]")
OUTPUTS = ("log_every=2", "sample_every=5", "checkpoint.every=3", "callback.samples.num=16")
ESTIMATE = ("++callback.wasserstein.num=16", "++callback.wasserstein.extra_updates=2")
"""Make the estimate of Wasserstein losses, where there is one, as small as the networks."""
COMMAND = (*SMALL, *OUTPUTS, "ema_halflife_images=20", "steps=12")


@dataclass
class Result:
    status: int
    stderr: str


class Process:
    """One run of the command. `status` is None until wait() returns."""

    def __init__(self, server: "Server", pid: int, log: Path):
        self.server, self.pid, self.log = server, pid, log
        self.status: int | None = None

    @property
    def stderr(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def until(self, condition: Callable[[], object], timeout: float = 60) -> bool:
        """Wait for the condition; return False if the process ends first."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.server.ended(self.pid):
                return bool(condition())
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.0005)
        return True

    def send(self, signum: int) -> None:
        if self.status is None:
            os.kill(self.pid, signum)  # the pid is not reused before wait() has collected the exit status

    def wait(self, timeout: float = 120) -> Result:
        if self.status is None:
            self.status = self.server.wait(self.pid, timeout)
        # The first line is printed before the task can refuse anything.
        return Result(
            self.status, re.sub(r"^gantrain \S+: [\w-]+(?: \(the default.*\))?\n", "", self.stderr, flags=re.M)
        )


class Server:
    """Run serve() in a process, and send it requests."""

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

    def fork(self, **request: Any) -> int:
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self.process.stdout.readline())

    def start(self, folder: Path, arguments: tuple[object, ...], *, log: Path | None = None, **options: Any) -> Process:
        log = folder / f"stderr-{time.monotonic_ns()}.txt" if log is None else log
        argv = with_one_model(arguments)
        pid = self.fork(folder=str(folder), argv=argv, log=str(log), **options)
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
        assert ready, f"still running after {timeout} s"
        return status

    def close(self) -> None:
        for pid in list(self.alive):
            os.kill(pid, signal.SIGKILL)
            self.wait(pid, 10)
        self.process.stdin.close()
        self.process.wait(10)


@cache
def shared_server() -> Server:
    """Start the server at its first use. It ends with this process, which closes its input."""
    return Server()


@pytest.fixture(scope="session")
def server() -> Server:
    """Return the shared server: pytest makes a session's fixture once for each module that imports it."""
    return shared_server()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the command in an empty folder.

    Options: `before`, Python code that the process executes before the command; `limits`, resource limits by name;
    `log`, the file that receives stdout and stderr; `forks`, to fork the Python programs that the command starts.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    yield lambda *arguments, **options: server.start(folder, arguments, **options)
    for pid in list(server.alive):
        os.kill(pid, signal.SIGKILL)
        server.wait(pid, 10)


@pytest.fixture
def gantrain(start: Callable[..., Process]) -> Callable[..., Result]:
    """Run the command, and wait for it."""
    return lambda *arguments, **options: start(*arguments, **options).wait()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The working directory of the command."""
    return tmp_path / "work"


def seconds_waiting_for_cpu(pid: int) -> float:
    """Seconds for which the process was runnable but had no core; 0 if the system does not report them."""
    schedule = Path(f"/proc/{pid}/schedstat")
    return int(schedule.read_text().split()[1]) / 1e9 if schedule.is_file() else 0.0


def slowness() -> float:
    """Return the CPU time of a loop relative to the machine on which limits in seconds were set; at least 1."""

    def seconds() -> float:
        began = time.thread_time()
        for _ in range(2_000_000):
            pass
        return time.thread_time() - began

    # The median, because what else runs on the machine slows down the measured command as well.
    return max(1.0, statistics.median(seconds() for _ in range(9)) / 0.03)


def on_call(function: str, action: str, *, call: int = 1) -> str:
    """Return Python code for `before` that executes the action at the n-th call of `function` ("module:name")."""
    module, _, name = function.partition(":")
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
    """Fork a process for every request. Do not compute with torch here: its threads do not survive a fork."""
    # Modules that a run imports lazily.
    from importlib import import_module
    from pkgutil import walk_packages

    for module in walk_packages(import_module("gantrain").__path__, "gantrain."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    libraries = ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "torch._dynamo", "torch.optim")
    for name in (*libraries, "scipy.optimize", "scipy.stats"):
        import_module(name)
    # Fill the caches that are filled at first use.
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from gantrain.evaluation.curves import curves

    curves([{"step": step, "loss/generator": 1.0, "loss/discriminator": 1.0} for step in (1, 2)])
    OverridesParser.create().parse_overrides([*COMMAND, "a=[b,c]", "d={e: 1}"])
    gc.collect()
    gc.freeze()  # a collection in a child would copy every shared page
    address = forks.serve()

    for line in sys.stdin.buffer.raw:  # unbuffered: a child must not inherit the next request
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            run_request(request, address)
        print(pid, flush=True)
    os._exit(0)  # skips triton's clean-up, which prints


def run_request(request: dict[str, Any], address: str) -> NoReturn:
    """Run the requested command in this process, and exit.

    Args:
        address: of the server that forks what the command starts.
    """
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
    if request.get("forks"):
        forks.install(address)

    def command() -> None:
        exec(request.get("before", ""), {})
        main()

    forks.exit_after(command)


if __name__ == "__main__":
    serve()
