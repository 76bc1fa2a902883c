"""Start Python programs by a fork of a process that has imported torch: a start takes 0.1 s instead of many seconds.

A server forks the programs, so that they begin in the state of a new process, whatever the one that asks has done.
This module imports only the standard library, because the fake srun uses it too.
"""

import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "FORK_SERVER"
"""The environment variable with the name of the server's socket, in the abstract namespace of Linux."""

Descriptors = tuple[int, ...]


def serve() -> str:
    """Fork the server, which ends when this process has ended; return its address. Call this before any threads."""
    address, parent = f"gantrain-tests-{os.getpid()}", os.getpid()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{address}")
    listener.listen(16)
    if os.fork():
        listener.close()
        return address
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # leaves no zombies
    listener.settimeout(1)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if not os.fork():
            listener.close()
            handle(connection)
        connection.close()
    os._exit(0)


def handle(connection: socket.socket) -> NoReturn:
    """Fork the requested program, send its pid and its status, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.setblocking(True)
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if not pid:
        connection.close()
        run(request, tuple(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):
        connection.sendall(struct.pack("i", pid))
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        connection.sendall(struct.pack("i", ended.si_status * (1 if ended.si_code == os.CLD_EXITED else -1)))
        connection.recv(1)  # as a zombie, it can be signalled until the one who asked has read its status
    os.waitpid(pid, 0)
    os._exit(0)


def run(request: dict[str, Any], descriptors: Descriptors) -> NoReturn:
    """Run the requested program in this process, and exit."""
    if request["new_session"]:
        os.setsid()
    if request["group"] is not None:
        os.setpgid(0, request["group"])
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Exit as Python does: gantrain must end such a process before torch tears down its connections.
        run_python(request["arguments"])
        sys.exit()
    exit_after(lambda: run_python(request["arguments"]))


def run_python(arguments: list[str]) -> None:
    """Run a program as `python` does with these arguments: `-u`, and `-m` with a module or the path of a script."""
    words = arguments[1:] if arguments[0] == "-u" else arguments
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def exit_after(function: Callable[[], None]) -> NoReturn:
    """Call the function, and exit as Python does, but without unloading torch, which takes longer than a small run."""
    status = 0
    try:
        function()
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    with suppress(Exception):
        threading._shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(status)


class Fork:
    """A Python program that the server forks, with what torchrun, gantrain and its benchmarks use of Popen."""

    def __init__(
        self,
        args: list[str],
        *,
        env: dict[str, str] | os._Environ[str] | None = None,
        cwd: Path | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        errors: str | None = None,
        start_new_session: bool = False,
        process_group: int | None = None,
    ):
        self.args, self.returncode, self.stdin, self.stdout = args, None, None, None
        opened: list[int] = []
        if stdin == subprocess.DEVNULL:
            opened.append(stdin := os.open(os.devnull, os.O_RDONLY))
        if stdin == subprocess.PIPE:
            stdin, end = os.pipe()
            opened.append(stdin)
            self.stdin = os.fdopen(end, "w")
        if stdout == subprocess.PIPE:
            end, stdout = os.pipe()
            opened.append(stdout)
            self.stdout = os.fdopen(end, errors=errors)
        given = (stdin, stdout, stdout if stderr == subprocess.STDOUT else stderr)
        descriptors = [default if stream is None else stream for default, stream in enumerate(given)]
        request = {
            "arguments": list(map(str, args[1:])),
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd or Path.cwd()),
            "new_session": start_new_session,
            "group": process_group,
        }
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(f"\0{os.environ[ADDRESS]}")
        socket.send_fds(self.connection, [b"\n"], [d if isinstance(d, int) else d.fileno() for d in descriptors])
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        for descriptor in opened:
            os.close(descriptor)
        self.pid = self.receive()

    def receive(self) -> int:
        return int(struct.unpack("i", self.connection.recv(4))[0])

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self.receive()
            self.connection.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Popen, except that the Python programs are forked."""

    def __new__(cls, args: Any, **options: Any) -> Any:
        return Fork(args, **options) if args[0] == sys.executable else super().__new__(cls)


def install(address: str) -> None:
    """Fork the Python programs that this process and the fake srun start from now on."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    os.environ[ADDRESS] = address
    subprocess.Popen = subprocess_handler.Popen = Popen  # type: ignore[misc]
