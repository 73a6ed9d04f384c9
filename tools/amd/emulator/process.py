"""The emulating process as its parent sees it: started when needed, and again after a crash."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..toolchain import BUILD, ROOT, find_program
from .messages import Answer, Call, Direct, Failure


class EmulationError(Exception):
    """A launch failed on the emulator: a wild access, a race, a crash, something unsupported."""


class EmulatorProcess:
    """Requests to one process, one at a time."""

    def __init__(self, tinygrad: Path) -> None:
        self._tinygrad = tinygrad
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as this object)

    def request(self, message: Direct | Call, timeout: float) -> Answer:
        """The answer. Raises EmulationError with the failure, or when there is none in time."""
        process = self._started()
        assert process.stdin is not None
        data = pickle.dumps(message)
        with contextlib.suppress(BrokenPipeError):  # a dead process is reported by the read
            process.stdin.write(struct.pack("<Q", len(data)) + data)
            process.stdin.flush()
        answer = self._answer(process, timeout)
        if isinstance(answer, Failure):
            raise EmulationError(answer.message)
        return answer

    def close(self) -> None:
        """Ends the process; the next request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answer(self, process: subprocess.Popen[bytes], timeout: float) -> Answer | Failure:
        deadline = time.monotonic() + timeout
        header = self._read(process, 8, deadline)
        body = self._read(process, struct.unpack("<Q", header)[0], deadline)
        answer: Answer | Failure = pickle.loads(body)
        return answer

    def _read(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert process.stdout is not None
        data = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise EmulationError("the emulator took too long and was stopped")
                part = os.read(process.stdout.fileno(), min(size - len(data), 1 << 20))
                if not part:
                    raise EmulationError(self._death(process))
                data += part
        return bytes(data)

    def _death(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self._process = None
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._messages.seek(0)
        tail = self._messages.read()[-2000:].decode(errors="replace")
        return f"the emulating process ended ({reason})\n{tail}"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._messages.seek(0)
            self._messages.truncate()
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env=self._environment(),
                cwd=ROOT,
            )
        return self._process

    def _environment(self) -> dict[str, str]:
        # The emulator compiles each new instruction with a compiler called clang, once.
        folder = BUILD / "emulator"
        folder.mkdir(parents=True, exist_ok=True)
        clang = find_program("clang++")
        link = folder / "clang"
        if not link.exists():
            with contextlib.suppress(FileExistsError):
                link.symlink_to(shutil.which(clang.replace("clang++", "clang")) or clang)
        unset = ("DEBUG", "PROFILE", "PYTHONPATH")
        return {
            **{k: v for k, v in os.environ.items() if k not in unset},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self._tinygrad)]),
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "CC": str(link),
            "CACHEDB": str(folder / "instructions.db"),
        }
