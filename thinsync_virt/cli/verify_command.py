"""``thinsync-vm verify``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from thinsync_virt.cli.completion import complete_domains
from thinsync_virt.cli.options import EXIT_STATUS, json_option, to_option
from thinsync_virt.cli.output import print_findings, print_json
from thinsync_virt.errors import Code, DiffersError
from thinsync_virt.model.names import short_id
from thinsync_virt.replication.verify import Proof
from thinsync_virt.units import format_duration, format_size

if TYPE_CHECKING:
    from thinsync_virt.cli.repair import Repaired

SHOWN_RANGES = 20


@click.command("verify", epilog=EXIT_STATUS)
@click.argument("domain", shell_complete=complete_domains)
@to_option(required=False)
@click.option(
    "--point", metavar="ID", default="", help="Which point: its id or the start of it (default: the newest)."
)
@click.option(
    "--repair",
    "repairing",
    is_flag=True,
    help="Where it differs: mark it as damaged at the target, and make a new point there, of what the domain has now.",
)
@json_option
def command(domain: str, to: str | None, point: str, repairing: bool, as_json: bool) -> int:
    """Prove that both ends hold the same recovery point of DOMAIN, byte for byte.

    Each end reads its own copy; only digests travel. Also compares the definition, and what is registered at the
    target with the point that it was made from. Without --to: the target that confirmed the newest point.

    \b
    Example:
      thinsync-vm verify web01
      thinsync-vm verify web01 --to backup1 --point 3f2a91c0
      thinsync-vm verify web01 --to backup1 --repair
    """
    import time

    from thinsync_virt.cli.build import Session, recorded_target
    from thinsync_virt.cli.progress import make_observer
    from thinsync_virt.cli.repair import compare, repair

    host = to if to is not None else recorded_target(domain)
    started = time.monotonic()
    repaired: Repaired | None = None
    with make_observer(quiet=as_json) as observer:
        with Session.open(host) as session:
            found = compare(session, domain, point, observer)
            proof = session.with_registered(found.proof) if found.proof is not None else None
        seconds = time.monotonic() - started
        if proof is not None and not as_json:
            _print(proof, domain, host, seconds)
        if found.unreadable is not None:
            if not repairing:
                raise found.unreadable
            observer.step(f"it is no whole copy at {host}: {found.unreadable.message}")
        if repairing and found.damaged:
            repaired = repair(domain, host, found, observer)
    if as_json:
        equal = proof is not None and proof.equal
        shown: dict[str, object] = {"equal": equal, "seconds": seconds, "proof": proof}
        if repaired is not None:
            equal = not repaired.after.damaged
            shown["repair"] = {
                "equal": equal,
                "marked": repaired.marked,
                "report": repaired.report,
                "proof": repaired.after.proof,
            }
        print_json(shown)
        return 0 if equal else Code.DIFFERS.exit_status
    name = f"#{found.point.sequence} {short_id(found.point.id)}"
    if repaired is not None:
        _print_repaired(repaired, domain, host, name)
        return 0
    assert proof is not None
    if proof.same and proof.registered:
        first = proof.registered[0]
        raise DiffersError(
            f"{domain}: point {name} is equal at both ends, but what is registered"
            f" at {host} is not that point: {first.message}",
            hint=first.hint,
        )
    if not proof.equal:
        raise DiffersError(
            f"{domain}: point {name} is not the same at both ends",
            hint="do not start it there; find the cause (failing disk? somebody wrote to it?), then have a new point"
            f" made in its place: {shlex.join(['thinsync-vm', 'verify', domain, '--to', host, '--repair'])}",
        )
    return 0


def _print_repaired(repaired: Repaired, domain: str, host: str, name: str) -> None:
    from thinsync_virt.cli.summary import print_outcome

    print_outcome(repaired.report)
    after = repaired.after.point
    if repaired.after.damaged:
        raise DiffersError(
            f"{domain}: the new point #{after.sequence} {short_id(after.id)} is not the same at both ends either",
            hint="a disk fails, here or there: dmesg, smartctl; do not rely on this copy before that is mended",
        )
    click.echo(
        f"{domain}: point {name} is damaged at {host}, or was changed here: which of the two is right cannot be told."
        f" Point #{after.sequence} {short_id(after.id)} is the same at both ends: it has what {domain} has here."
    )


def _print(proof: Proof, domain: str, host: str, seconds: float) -> None:
    for disk in proof.disks:
        if not disk.differing:
            digest = disk.digest[:16]
            click.echo(f"  {disk.target}: equal, {format_size(disk.compared)} compared (sha256 {digest}...)")
            continue
        total = sum(found.length for found in disk.differing)
        click.echo(f"  {disk.target}: DIFFERS in {format_size(total)}:")
        for found in disk.differing[:SHOWN_RANGES]:
            click.echo(f"    bytes {found.start} to {found.start + found.length - 1}")
        if len(disk.differing) > SHOWN_RANGES:
            click.echo(f"    and {len(disk.differing) - SHOWN_RANGES} more ranges (--json lists all)")
    click.echo(f"  definition: {'equal' if proof.definition_equal else 'DIFFERS'}")
    print_findings((*proof.registered, *proof.notes))
    if proof.equal:
        click.echo(
            f"{domain}: point #{proof.point.sequence} {short_id(proof.point.id)} is the same here and at {host}"
            f" ({format_duration(seconds)})"
        )
