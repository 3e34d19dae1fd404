"""One child process that answers JSON lines, and the pipes to it.

In: a command and one line at a time. Out: the child's line, or a `ChildError` that says what went
wrong. Nothing in here waits longer than it was told to, whatever the child does: it may hang, exit,
write without end, never read its input, or fill its error output. All three pipes are non-blocking
and served by one ``select`` loop.

The child has an interpreter of its own, so it shares neither the GIL nor a byte of memory with
production, and it runs when the processor has nothing else to do: nice 19 and, on Linux, the policy
SCHED_IDLE, which sched(7) describes as lower than nice 19. The parent sets both right after the
start; threads that the child makes later inherit them. What remains shared is the machine: caches,
memory bandwidth, and memory for a second copy of the model.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

MAX_LINE_BYTES = 4 * 1024**2
ERROR_TAIL_BYTES = 2000
LOOK_UP_S = 0.1  # how long `close` from another thread may go unnoticed


class ChildError(RuntimeError):
    """The child did not give one line for one line. `kind`: timeout, exited or garbled."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(detail)


class ChildProcess:
    """A running child. For one thread, except `kill`, which any thread may call.

    Args:
        command: Program and arguments.
        environment: Added to this process's own.
        idle: Run at the lowest priority.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, idle: bool = True
    ) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **environment},
            process_group=0,  # Ctrl-C is for the server, which then stops the child
        )
        self.pid = self._process.pid
        if idle:
            lowest_priority(self.pid)
        self._stdin, self._stdout, self._stderr = (
            _pipe(file)
            for file in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._received = bytearray()
        self._error_tail = b""

    def ask(self, line: bytes, timeout_s: float) -> bytes:
        """Send one line, wait for one line.

        Args:
            line: Without its newline.
            timeout_s: For both ways together.

        Raises:
            ChildError: No line in time, the child is gone, or it wrote what nobody asked for.
        """
        self._take_waiting()
        if self._received:
            raise ChildError("garbled", f"output that nobody asked for: {self._received[:80]!r}")
        return self._exchange(line + b"\n", timeout_s)

    def first_line(self, timeout_s: float) -> bytes:
        """The line with which the child says that it is ready. Raises as `ask` does."""
        return self._exchange(b"", timeout_s)

    def kill(self) -> None:
        """End the child and what it started, at once; harmless when it has ended."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):  # it ended between the two lines
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill, wait for the end, close the pipes."""
        self.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()

    def _exchange(self, unsent: bytes, timeout_s: float) -> bytes:
        deadline_s = time.monotonic() + timeout_s
        while (end := self._received.find(b"\n")) < 0:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise ChildError("timeout", f"no answer after {timeout_s:g} s")
            if len(self._received) > MAX_LINE_BYTES:
                raise ChildError("garbled", f"a line of more than {MAX_LINE_BYTES} bytes")
            writers = [self._stdin] if unsent else []
            readers = [self._stdout, self._stderr]
            readable, writable, _ = select.select(readers, writers, [], min(left_s, LOOK_UP_S))
            if self._stderr in readable:
                self._read_errors()
            if self._stdout in readable:
                self._read_answer()
            if writable:
                unsent = unsent[self._write(unsent) :]
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _take_waiting(self) -> None:
        """What the child wrote since the last answer."""
        readable, _, _ = select.select([self._stdout, self._stderr], [], [], 0)
        if self._stderr in readable:
            self._read_errors()
        if self._stdout in readable:
            self._read_answer()

    def _read_answer(self) -> None:
        chunk = _read(self._stdout)
        if chunk == b"":
            raise ChildError("exited", f"the child ended{self._last_words()}")
        self._received += chunk or b""

    def _read_errors(self) -> None:
        self._error_tail = (self._error_tail + (_read(self._stderr) or b""))[-ERROR_TAIL_BYTES:]

    def _write(self, unsent: bytes) -> int:
        try:
            return self._stdin.write(unsent) or 0
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise ChildError("exited", f"the child ended{self._last_words()}") from None

    def _last_words(self) -> str:
        """Exit status and the end of what it wrote to stderr."""
        try:
            status = f" with status {self._process.wait(0.5)}"
        except subprocess.TimeoutExpired:
            status = ""
        self._read_errors()
        words = self._error_tail.decode(errors="replace").strip()
        return f"{status}: ...{words}" if words else status


def lowest_priority(pid: int) -> None:
    """Nice 19 for a process of one's own; on Linux also the policy SCHED_IDLE. Never an error."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    except (PermissionError, ProcessLookupError):  # a sandbox forbids it, or the child is gone
        pass


def _pipe(file: IO[bytes] | None) -> IO[bytes]:
    if file is None:
        raise ValueError("the child was started without its three pipes")
    os.set_blocking(file.fileno(), False)
    return file


def _read(pipe: IO[bytes]) -> bytes | None:
    """What is there: b"" at the end of the stream, None when there is nothing now."""
    return pipe.read(65_536)
