"""``thinsync-vm check``."""

from __future__ import annotations

import shlex

import click

from thinsync_virt.cli.completion import complete_domains
from thinsync_virt.cli.options import EXIT_STATUS, choice_options, json_option, parse_wishes, to_option
from thinsync_virt.cli.output import print_findings, print_json
from thinsync_virt.errors import UsageError
from thinsync_virt.model.findings import Finding, refusals


@click.command("check", epilog=EXIT_STATUS)
@click.argument("domain", required=False, shell_complete=complete_domains)
@to_option(required=False)
@choice_options
@json_option
def command(
    domain: str | None,
    to: str | None,
    pool: str | None,
    maps: tuple[str, ...],
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    as_json: bool,
) -> int:
    """Look at everything that a replication needs, here and at the other host, and say what to do.

    Changes nothing, and remembers nothing: --pool, --map, --exclude and --include are tried as replicate would take
    them. Exits with the code of the first finding that would stop a replication, else with 0.

    \b
    Example:
      thinsync-vm check
      thinsync-vm check web01 --to backup1
      thinsync-vm check web01 --to backup1 --map net:br0=br7 --exclude vdb
    """
    from thinsync_virt.cli.checks import look

    wishes = parse_wishes(pool, maps, exclude, include)
    choices = _words(pool, maps, exclude, include)
    if choices and domain is None:
        raise UsageError(f"{choices[0]} is about a domain, and none is named", hint="name it: check DOMAIN")
    if (pool or maps) and to is None:
        raise UsageError(
            f"{choices[0]} is about the other host, and none is named", hint="name it: --to HOST"
        )
    findings = look(domain, to, wishes)
    stops = refusals(findings)
    if as_json:
        print_json({"ready": not stops, "findings": findings})
    else:
        print_findings(findings)
        _print_verdict(stops, domain, to, choices)
    return stops[0].code.exit_status if stops else 0


def _print_verdict(
    stops: tuple[Finding, ...], domain: str | None, to: str | None, choices: list[str]
) -> None:
    if stops:
        click.echo(f"\n{len(stops)} finding{'s' if len(stops) > 1 else ''} would stop a replication.")
    elif domain and to:
        next_one = shlex.join(["thinsync-vm", "replicate", domain, "--to", to, *choices])
        click.echo(f"\nReady. Next: {next_one}")
    else:
        click.echo("\nNothing here would stop a replication.")


def _words(
    pool: str | None, maps: tuple[str, ...], exclude: tuple[str, ...], include: tuple[str, ...]
) -> list[str]:
    """The choices as they stand on a command line."""
    given = [("--pool", value) for value in (pool,) if value]
    given += [("--map", value) for value in maps]
    given += [("--exclude", value) for value in exclude]
    given += [("--include", value) for value in include]
    return [word for pair in given for word in pair]
