"""``thinsync-vm pool``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from thinsync_virt.cli.options import EXIT_STATUS, json_option
from thinsync_virt.cli.output import print_json
from thinsync_virt.cli.privilege import need_root

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from thinsync_virt.endpoint.pool_purposes import Disks
    from thinsync_virt.endpoint.pool_view import PoolViewer
    from thinsync_virt.hypervisor.driver import LibvirtHypervisor
    from thinsync_virt.model.findings import Finding
    from thinsync_virt.system.lvm import Lvm


class PoolCommand(click.Command):
    """A command with commands below it: its own argument is a pool, which no name of a command can be."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.subcommands: dict[str, click.Command] = {}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command below, where the first word names one."""
        below = self.subcommands.get(args[0]) if args else None
        if below is None:
            return super().make_context(info_name, args, parent, **extra)
        return below.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options, then the commands below."""
        super().format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(90)) for name, one in self.subcommands.items()])


class _PoolName(click.ParamType):
    name = "VG/POOL"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from contextlib import suppress

        from click.shell_completion import CompletionItem

        from thinsync_virt.errors import ThinsyncError
        from thinsync_virt.system.lvm import Lvm

        words = list(ctx.command.subcommands) if isinstance(ctx.command, PoolCommand) else []
        with suppress(ThinsyncError):
            words += [str(pool.name) for pool in Lvm().pools()]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


@click.command("pool", cls=PoolCommand, epilog=EXIT_STATUS)
@click.argument("pool", type=_PoolName(), metavar="[VG/POOL]", required=False)
@json_option
def command(pool: str | None, as_json: bool) -> int:
    """The thin pools of this host; with VG/POOL all about one: health, head room, and what each volume pins.

    A pool is finite in four ways: data, metadata, the volume group's text area, and 2^24 snapshots in its life. What
    a volume has alone is what deleting it would free; it is counted in the pool's metadata, through a metadata
    snapshot that is held for as long as that takes.

    Exits with 0 when all could be read, else with the status of what could not: 5 where somebody else holds the
    metadata snapshot, 8 where the metadata is damaged, 3 where there is no such pool or it is not active.

    \b
    Example:
      thinsync-vm pool
      thinsync-vm pool vg0/pool
      thinsync-vm pool release vg0/pool
    """
    from thinsync_virt.cli import pool_output
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.model.pools import Health

    name = VolumeName.parse(pool) if pool is not None else None
    viewer = _viewer()
    if name is None:
        pools = viewer.overview()
        if as_json:
            print_json(pools)
        else:
            pool_output.print_overview(pools)
        return _status(one.problem for one in pools)
    view = viewer.view(name)
    if as_json:
        print_json(view)
    else:
        pool_output.print_view(view)
    unread = view.health_finding if view.health is Health.UNREADABLE else None
    return _status([view.content.problem, unread])


def _status(problems: Iterable[Finding | None]) -> int:
    return next((problem.code.exit_status for problem in problems if problem is not None), 0)


def _viewer() -> PoolViewer:
    import socket

    from thinsync_virt.endpoint.pool_view import PoolViewer
    from thinsync_virt.hypervisor.driver import LibvirtHypervisor
    from thinsync_virt.system.lvm import Lvm

    need_root()
    lvm = Lvm()
    return PoolViewer(lvm, socket.gethostname(), lambda: _disks(lvm, LibvirtHypervisor()))


def _disks(lvm: Lvm, hypervisor: LibvirtHypervisor) -> Disks:
    """Which volume is a disk of which domain; a domain that cannot be looked at, or libvirt, is left out."""
    from thinsync_virt.endpoint.pool_purposes import DomainDisk
    from thinsync_virt.endpoint.pools import VolumeFinder
    from thinsync_virt.errors import ThinsyncError
    from thinsync_virt.model.names import VolumeName

    finder = VolumeFinder(lvm)
    found: dict[VolumeName, DomainDisk] = {}
    try:
        names = hypervisor.domain_names()
    except ThinsyncError as error:
        click.echo(f"which volumes are disks of domains is not known: {error.message}", err=True)
        return found
    for name in names:
        try:
            domain = hypervisor.inspect(name, finder)
        except ThinsyncError:
            continue
        for disk in domain.disks:
            if disk.volume is not None:
                found[disk.volume.name] = DomainDisk(name, disk.target)
    hypervisor.close()
    return found


@click.command("release", epilog=EXIT_STATUS)
@click.argument("pool", type=_PoolName(), metavar="VG/POOL")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def release(pool: str, yes: bool, as_json: bool) -> None:
    """Release the metadata snapshot that some other program left in VG/POOL.

    A pool has one at most; while somebody else's is held, no delta can be read. Whoever is still reading it will
    fail, so make sure that nobody is. Asks first; with the answer no, nothing is changed, and the status is 4.

    \b
    Example:
      thinsync-vm pool release vg0/pool
    """
    from thinsync_virt.endpoint.metadata_lease import MetadataLeases
    from thinsync_virt.errors import ConflictError
    from thinsync_virt.model.names import VolumeName
    from thinsync_virt.model.pools import HolderKind
    from thinsync_virt.system.lvm import Lvm

    need_root()
    found = Lvm().pool(VolumeName.parse(pool))
    leases = MetadataLeases()
    holder = leases.holder(found)
    if holder.kind is HolderKind.NOBODY:
        released = False
    else:
        whose = {
            HolderKind.RUNNING: f"a run of ours at work (pid {holder.pid}, which is waited for)",
            HolderKind.CRASHED: "a crashed run of ours",
            HolderKind.FOREIGN: "another program",
        }[holder.kind]
        question = (
            f"Pool {found.name} has a metadata snapshot of {whose}. If it is being read right now,"
            " its reader fails. Release it?"
        )
        if not yes and not _agreed(question):
            raise ConflictError(
                f"pool {found.name}: the metadata snapshot was not released: the answer was no",
                hint=f"once its reader has ended: thinsync-vm pool release {found.name}"
                " (--yes where nobody can be asked)",
            )
        released = leases.release_foreign(found, block=holder.block)
    if as_json:
        print_json({"pool": str(found.name), "released": released})
    elif released:
        click.echo(f"{found.name}: the metadata snapshot was released")
    else:
        click.echo(f"{found.name}: no metadata snapshot is held; nothing to do")


def _agreed(question: str) -> bool:
    """Nobody there to answer, as under cron, is no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as stop:
        # click makes the same of a key that stops the program.
        if not isinstance(stop.__context__, EOFError):
            raise
        click.echo(err=True)
        return False


assert isinstance(command, PoolCommand)
command.subcommands["release"] = release
