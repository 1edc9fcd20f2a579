"""Which commands there are. Each is imported when it is called: start-up is part of speed."""

from __future__ import annotations

import importlib
import io
import os
from typing import Any

import click

from thinsync_virt import __version__
from thinsync_virt.cli import failures
from thinsync_virt.errors import Code, UsageError
from thinsync_virt.model.text import printable

_MOST_SHOWN = 1000
"""Characters of a line about wrong usage."""

DAILY = {
    "list": "Domains, their disks, and which can be replicated.",
    "replicate": "Bring the copy of a domain on another host up to date.",
    "points": "Recovery points at one or both ends.",
    "verify": "Prove that both ends hold the same data.",
    "check": "Look at everything the job needs, and say what to do.",
    "pool": "Thin pools: health, head room, what each volume pins.",
    "delta": "What makes one thin volume of another.",
    "send": "A volume or a recovery point, or what makes one of another, as a stream.",
    "receive": "Make volumes of a stream, or bring them up to date.",
    "stream": "Look at streams that were kept in files.",
}
PLUMBING = {
    "server": "What runs at the far end of ssh.",
    "guard": "The service that thaws and resumes guests whatever happens.",
    "recover": "Clean up after a crash; idempotent.",
}


class _PassedError(BaseException):
    """Carries what click would answer itself, its own way, up to us."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Group(click.Group):
    """Commands below a command. What names none is wrong usage.

    To click a word that begins with a sign is an option then, and it shows the help, with status 0.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}.")
        return super().resolve_command(ctx, args)


class Commands(Group):
    """Loads each command's module on demand and groups the overview."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, KeyboardInterrupt) as error:
            raise _PassedError(error) from error

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


def invoke(argv: list[str]) -> int:
    """Run one command; its exit status. Usage errors of click's are shown here, as click shows them.

    Raises KeyboardInterrupt, BrokenPipeError, and whatever the command raises.
    """
    try:
        status = group.main(args=argv, prog_name="thinsync-vm", standalone_mode=False, color=_colour())
    except _PassedError as passed:
        raise passed.error from None
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        _show(error)
        if "--json" in argv:
            failures.print_as_json(UsageError(error.format_message(), hint=_help_of(error)))
        return Code.USAGE.exit_status
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status if isinstance(status, int) else 0


def _colour() -> bool | None:
    """False where colours are not wanted (no-color.org), or the terminal has none; else click looks itself."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _show(error: click.ClickException) -> None:
    """As click does, but what was typed, or came from a script's list of names, does not steer the terminal."""
    text = io.StringIO()
    error.show(text)
    for line in text.getvalue().splitlines():
        failures.say(printable(line, _MOST_SHOWN))


def _help_of(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see: {context.command_path if context is not None else 'thinsync-vm'} --help"
