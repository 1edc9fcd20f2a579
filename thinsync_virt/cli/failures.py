"""What happens when a command fails, is stopped, or nobody reads what it says. Without click: see ``main``."""

from __future__ import annotations

# The module signal is this one with enum around it, whose import takes longer than a small delta.
import _signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import NoReturn

    from thinsync_virt.errors import ThinsyncError


class _StopError(BaseException):
    """A signal asked us to stop: unwinds like KeyboardInterrupt, so that every context cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _signal.signal(number, _signal.SIG_IGN)
    raise _StopError(number)


def exit_after(work: Callable[[], int], *, as_json: bool, at_once: bool = False) -> NoReturn:
    """Do the work and exit with the status that it gives, or that its failure has.

    ``as_json``: failures are told as JSON, too. ``at_once``: after work that has succeeded nothing is left to clean up,
    and what it wrote was sent.
    """
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _stop)
    # Files that we make are nobody else's business: definitions hold secrets.
    os.umask(0o077)
    _occupy_standard_files()
    try:
        status = _attempt(work, as_json=as_json)
        if at_once and status == 0:
            os._exit(status)
        sys.exit(status)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except _StopError as stop:
        import signal

        say(f"stopped by {signal.Signals(stop.number).name}")
        sys.exit(128 + stop.number)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(128 + _signal.SIGPIPE)


def _attempt(work: Callable[[], int], *, as_json: bool) -> int:
    try:
        return work()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        return _report(error, as_json=as_json)


def say(text: str) -> None:
    """One line on standard error, if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def silence_stdout() -> None:
    """Nobody reads any more: what Python still holds back goes nowhere, instead of failing once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def print_as_json(error: ThinsyncError) -> None:
    """The error as one JSON document on standard output."""
    import json

    value = {
        "error": {
            "code": error.code.value,
            "message": error.message,
            "hint": error.hint,
            "retry": error.retry,
            "notes": list(getattr(error, "__notes__", ())),
        }
    }
    print(json.dumps(value), flush=True)  # noqa: T201


def _print_if_possible(error: ThinsyncError) -> None:
    """Standard output may be what has failed; standard error has it in any case."""
    try:
        print_as_json(error)
    except BrokenPipeError:
        raise
    except OSError:
        silence_stdout()


def _occupy_standard_files() -> None:
    """A file that we open must not become standard output: what was closed becomes a file that cannot be written.

    Whoever closed standard error wants to hear nothing; who closed standard output hears that it cannot be written.
    """
    for number, stream in ((0, sys.stdin), (1, sys.stdout), (2, sys.stderr)):
        if stream is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _report(error: Exception, *, as_json: bool) -> int:
    from thinsync_virt.errors import ThinsyncError

    if not isinstance(error, ThinsyncError):
        if os.environ.get("THINSYNC_DEBUG"):
            raise error
        error = _output_error(error) or _unexpected(error)
    if as_json:
        _print_if_possible(error)
    from thinsync_virt.model.text import printable

    # Guests and the other host have a say in these texts: nothing of theirs may steer a terminal.
    say(f"thinsync-vm: {printable(error.message)}")
    for note in getattr(error, "__notes__", ()):
        say(f"  {printable(str(note))}")
    if error.hint:
        say(f"  what to do: {printable(error.hint)}")
    return error.code.exit_status


def _output_error(error: Exception) -> ThinsyncError | None:
    """If it is standard output that failed: but for these libraries, nobody writes there without looking."""
    trace = _last(error.__traceback__)
    if not isinstance(error, OSError) or trace is None:
        return None
    if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] not in ("click", "rich"):
        return None
    # What Python still holds back must not fail once more at the exit.
    silence_stdout()
    from thinsync_virt.errors import ThinsyncError

    return ThinsyncError(
        f"cannot write to standard output: {error.strerror}", hint="is there room where it goes?"
    )


def _unexpected(error: Exception) -> ThinsyncError:
    from thinsync_virt.errors import ThinsyncError

    trace = _last(error.__traceback__)
    place = (
        f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        if trace is not None
        else ""
    )
    return ThinsyncError(
        f"this should not have happened: {type(error).__name__} at {place}: {error}",
        hint="run it again with THINSYNC_DEBUG=1 in the environment and report what it prints",
    )


def _last(trace: TracebackType | None) -> TracebackType | None:
    """Where it was raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace
