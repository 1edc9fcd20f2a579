"""The command ``thinsync-vm``: which commands there are, and what happens when one fails.

Commands are imported when they are called: start-up is part of speed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from thinsync_virt import __version__
from thinsync_virt.errors import Code, ThinsyncError, UsageError

DAILY = {
    "list": "Domains, their disks, and which can be replicated.",
    "replicate": "Bring the copy of a domain on another host up to date.",
    "points": "Recovery points at one or both ends.",
    "verify": "Prove that both ends hold the same data.",
    "check": "Look at everything the job needs, and say what to do.",
    "delta": "What makes one thin volume of another.",
}
PLUMBING = {
    "server": "What runs at the far end of ssh.",
    "guard": "The service that thaws and resumes guests whatever happens.",
    "recover": "Clean up after a crash; idempotent.",
    "pool": "Operator's tools for one thin pool.",
}


class Commands(click.Group):
    """Loads each command's module on demand and groups the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*DAILY, *PLUMBING]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in DAILY and cmd_name not in PLUMBING:
            return None
        module = importlib.import_module(f"thinsync_virt.cli.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in (("Daily commands", DAILY), ("Plumbing", PLUMBING)):
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="thinsync-vm")
def group() -> None:
    """A second copy of each running VM on another host, seconds old, proved right, ready to start.

    On plain LVM thin pools, over ssh, without stopping the VM and without reading the whole disk.

    \b
    First steps:
      thinsync-vm list
      thinsync-vm check web01 --to HOST
      thinsync-vm replicate web01 --to HOST
    """


class _StopError(BaseException):
    """A signal asked us to stop: unwinds like KeyboardInterrupt, so that every context cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise _StopError(number)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit. No expected failure shows a traceback; THINSYNC_DEBUG=1 shows them all."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # Files that we make are nobody else's business: definitions hold secrets.
    os.umask(0o077)
    as_json = "--json" in (argv if argv is not None else sys.argv)
    try:
        status = group.main(args=argv, prog_name="thinsync-vm", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.ClickException as error:
        error.show()
        if as_json:
            _print_as_json(UsageError(error.format_message()))
        sys.exit(Code.USAGE.exit_status)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except _StopError as stop:
        click.echo(f"stopped by {signal.Signals(stop.number).name}", err=True)
        sys.exit(128 + stop.number)
    except BrokenPipeError:
        _silence_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except ThinsyncError as error:
        _show(error, as_json=as_json)
        sys.exit(error.code.exit_status)
    except Exception as error:
        if os.environ.get("THINSYNC_DEBUG"):
            raise
        _show(_unexpected(error), as_json=as_json)
        sys.exit(Code.INTERNAL.exit_status)


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _unexpected(error: Exception) -> ThinsyncError:
    place = ""
    trace = error.__traceback__
    while trace is not None:
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return ThinsyncError(
        f"this should not have happened: {type(error).__name__} at {place}: {error}",
        hint="run it again with THINSYNC_DEBUG=1 in the environment and report what it prints",
    )


def _show(error: ThinsyncError, *, as_json: bool) -> None:
    notes: tuple[Any, ...] = tuple(getattr(error, "__notes__", ()))
    if as_json:
        _print_as_json(error)
    click.echo(f"thinsync-vm: {error.message}", err=True)
    for note in notes:
        click.echo(f"  {note}", err=True)
    if error.hint:
        click.echo(f"  what to do: {error.hint}", err=True)


def _print_as_json(error: ThinsyncError) -> None:
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
    click.echo(json.dumps(value))


if __name__ == "__main__":
    main()
