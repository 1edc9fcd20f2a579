"""``thinsync-vm list``."""

from __future__ import annotations

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.output import print_json, print_table
from thinsync_virt.model.domains import Disk, Domain


@click.command("list", epilog=EXIT_STATUS)
@json_option
def command(as_json: bool) -> None:
    """Domains of this host, each disk with its thin volume, and why a disk cannot be replicated.

    \b
    Example:
      thinsync-vm list
      thinsync-vm list --json | jq '.[].name'
    """
    from thinsync_virt.cli.build import local_inspector

    inspector = local_inspector()
    domains = inspector.domains()
    chunks = inspector.chunk_sizes() if domains else {}
    if as_json:
        print_json([_row(domain, inspector.mapped(domain), chunks) for domain in domains])
        return
    if not domains:
        click.echo("There are no domains on this host (virsh list --all).")
        return
    _print_table(domains, {d.name: inspector.mapped(d) for d in domains}, chunks)
    click.echo("\nNext: thinsync-vm check DOMAIN --to HOST")


def _row(domain: Domain, mapped: dict[str, int], chunks: dict[str, int]) -> dict[str, object]:
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": domain.state.value,
        "problems": list(domain.problems),
        "disks": [
            {
                "target": disk.target,
                "device": disk.device,
                "source": disk.source,
                "volume": str(disk.volume.name) if disk.volume else None,
                "pool": str(disk.volume.pool) if disk.volume else None,
                "chunk_size": chunks.get(str(disk.volume.pool)) if disk.volume else None,
                "size": disk.volume.size if disk.volume else None,
                "mapped": mapped.get(disk.target),
                "problem": disk.problem,
                "hint": disk.hint,
            }
            for disk in domain.disks
        ],
    }


def _print_table(
    domains: tuple[Domain, ...], mapped: dict[str, dict[str, int]], chunks: dict[str, int]
) -> None:
    from rich.table import Table
    from rich.text import Text

    from thinsync_virt.units import format_size

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("DOMAIN", "STATE", "DISK", "VOLUME", "POOL"):
        table.add_column(name, no_wrap=True)
    for name in ("CHUNK", "SIZE", "MAPPED"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("REPLICABLE")

    def verdict(disk: Disk) -> Text:
        if disk.removable:
            return Text(
                "travels with the definition, if small" if disk.source else "empty drive", style="dim"
            )
        if disk.volume is None:
            return Text(f"no: {disk.problem}", style="red")
        return Text("yes", style="green")

    for domain in domains:
        first = True
        for disk in domain.disks or (None,):
            head = (Text(domain.name), Text(domain.state.value)) if first else (Text(""), Text(""))
            first = False
            if disk is None:
                table.add_row(*head, *[Text("-")] * 6, Text("no: it has no disks", style="red"))
                continue
            volume = disk.volume
            bytes_mapped = mapped[domain.name].get(disk.target)
            table.add_row(
                *head,
                Text(disk.target),
                Text(str(volume.name) if volume else disk.source or "-"),
                Text(str(volume.pool) if volume else "-"),
                Text(format_size(chunks.get(str(volume.pool), 0)) if volume else "-"),
                Text(format_size(volume.size) if volume else "-"),
                Text(format_size(bytes_mapped) if bytes_mapped is not None else "-"),
                verdict(disk),
            )
        for problem in domain.problems:
            table.add_row("", "", "", "", "", "", "", "", Text(f"no: {problem}", style="red"))
    print_table(table)
