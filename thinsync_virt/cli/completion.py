"""What the shell offers for an argument. Whatever goes wrong, it offers nothing and says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from thinsync_virt.errors import ThinsyncError

if TYPE_CHECKING:
    import click


def complete_domains(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of this host's domains."""
    from thinsync_virt.system.virsh import domain_names

    return _beginning(incomplete, domain_names)


def complete_thin_volumes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """``VG/LV`` of this host's thin volumes, without those that stand on the command line already."""
    given = (parameter.name and context.params.get(parameter.name)) or ()
    return _beginning(incomplete, lambda: (name for name in _thin_volumes() if name not in given))


def complete_sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What can be sent: names of domains, and ``VG/LV`` of thin volumes."""
    from thinsync_virt.system.virsh import domain_names

    return [*_beginning(incomplete, domain_names), *_beginning(incomplete, _thin_volumes)]


def _thin_volumes() -> list[str]:
    from thinsync_virt.system.lvm import Lvm

    return sorted(str(volume.name) for volume in Lvm().volumes())


def _beginning(incomplete: str, list_names: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return [name for name in list_names() if name.startswith(incomplete)]
    except ThinsyncError:
        return []
