"""The only place where the lab runs commands on the host. Every one has a time limit."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinlab.errors import LabError

_STARTED = time.monotonic()


@dataclass(frozen=True)
class Result:
    """What a command that has ended left behind; the output is text, decoded leniently."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0


class CommandError(LabError):
    """A command ended with a status that its caller did not expect, or not in time."""

    def __init__(self, result: Result, hint: str = "") -> None:
        text = (result.stderr.strip() or result.stdout.strip())[-2000:]
        super().__init__(
            f"{_shortened(shlex.join(result.argv))}: exit status {result.returncode}\n{text}".rstrip(), hint
        )
        self.result = result


def _shortened(line: str) -> str:
    return line if len(line) < 400 else f"{line[:300]} ... {line[-60:]}"


def say(message: str) -> None:
    """Tell the user what is being done, with the seconds since the program started."""
    print(f"[{time.monotonic() - _STARTED:6.1f}s] {message}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60,
    check: bool = True,
    input: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    hint: str = "",
) -> Result:
    """Run a command on the host and return its output; kill it after ``timeout`` seconds."""
    data = input.encode() if isinstance(input, str) else input
    stdin = None if data is not None else subprocess.DEVNULL
    try:
        done = subprocess.run(
            list(argv),
            input=data,
            stdin=stdin,
            capture_output=True,
            timeout=timeout,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(
            f"{argv[0]}: not found on this machine", hint or f"install the package that has {argv[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        captured = (
            (error.stdout or b"").decode(errors="replace"),
            (error.stderr or b"").decode(errors="replace"),
        )
        late = Result(tuple(argv), 124, captured[0], f"{captured[1]}\nno end after {timeout:g} s")
        raise CommandError(late, hint) from error
    result = Result(
        tuple(argv),
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )
    if check and not result.ok:
        raise CommandError(result, hint)
    return result
