"""``thinsync-vm verify``."""

from __future__ import annotations

import click

from thinsync_virt.cli.completion import complete_domains
from thinsync_virt.cli.options import EXIT_STATUS, json_option, to_option
from thinsync_virt.cli.output import print_findings, print_json
from thinsync_virt.errors import Code, DiffersError
from thinsync_virt.model.names import short_id
from thinsync_virt.replication.verify import Proof
from thinsync_virt.units import format_duration, format_size

SHOWN_RANGES = 20


@click.command("verify", epilog=EXIT_STATUS)
@click.argument("domain", shell_complete=complete_domains)
@to_option(required=False)
@click.option(
    "--point", metavar="ID", default="", help="Which point: its id or the start of it (default: the newest)."
)
@json_option
def command(domain: str, to: str | None, point: str, as_json: bool) -> int:
    """Prove that both ends hold the same recovery point of DOMAIN, byte for byte.

    Each end reads its own copy; only digests travel. Also compares the definition, and what is registered at the
    target with the point that it was made from. Without --to: the target that confirmed the newest point.

    \b
    Example:
      thinsync-vm verify web01
      thinsync-vm verify web01 --to backup1 --point 3f2a91c0
    """
    import time

    from thinsync_virt.cli.build import Session, recorded_target
    from thinsync_virt.cli.progress import make_observer
    from thinsync_virt.replication.verify import choose_point, verify

    host = to if to is not None else recorded_target(domain)
    started = time.monotonic()
    with Session.open(host) as session:
        uuid = session.uuid_of(domain)
        ours = session.source_prover.points(uuid)
        theirs = session.target_prover.points(uuid)
        chosen = choose_point(ours, theirs, point, domain)
        with make_observer(quiet=as_json) as observer:
            observer.step(f"comparing point #{chosen.sequence} {short_id(chosen.id)} with {host}")
            shown = False

            def progress(done: int, total: int) -> None:
                nonlocal shown
                if not shown:
                    observer.transfer(total, verb="comparing")
                    shown = True
                observer.progress(done)

            proof = verify(session.source_prover, session.target_prover, chosen, progress)
            proof = session.with_registered(proof)
    seconds = time.monotonic() - started
    if as_json:
        print_json({"equal": proof.equal, "seconds": seconds, "proof": proof})
        return 0 if proof.equal else Code.DIFFERS.exit_status
    _print(proof, domain, host, seconds)
    if proof.same and proof.registered:
        first = proof.registered[0]
        raise DiffersError(
            f"{domain}: point #{chosen.sequence} {short_id(chosen.id)} is equal at both ends, but what is registered"
            f" at {host} is not that point: {first.message}",
            hint=first.hint,
        )
    if not proof.equal:
        raise DiffersError(
            f"{domain}: point #{chosen.sequence} {short_id(chosen.id)} is not the same at both ends",
            hint="do not start it there; find the cause (failing disk? somebody wrote to it?),"
            " remove that point at the target and replicate again",
        )
    return 0


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
    print_findings(proof.registered)
    if proof.equal:
        click.echo(
            f"{domain}: point #{proof.point.sequence} {short_id(proof.point.id)} is the same here and at {host}"
            f" ({format_duration(seconds)})"
        )
