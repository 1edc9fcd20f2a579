"""Definitions on small thin volumes: written once per content, read and proved by their id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from thinsync_virt.endpoint.catalogue import DefinitionVolume
from thinsync_virt.endpoint.naming import free_name
from thinsync_virt.errors import BusyError, NotFoundError, PoolError, ThinsyncError
from thinsync_virt.model.definition import MAX_HEADER, Definition, packed_size, unpack
from thinsync_virt.model.names import VolumeName, short_id
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.tags import DefinitionMember, Role, format_tag
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.lvm import Lvm
from thinsync_virt.units import align_down, align_up

_BLOCK = 4096
_ATTEMPTS = 3
_PREFIX = align_up(MAX_HEADER + 16, _BLOCK)
MADE_ANEW = (
    "a definition of the source is made anew by: thinsync-vm replicate DOMAIN --to HOST; one of the target, with a new"
    " point, by: thinsync-vm verify DOMAIN --to HOST --repair, at the source"
)
"""The way out where the definition of a point is gone or damaged."""


@contextmanager
def activated(lvm: Lvm, names: tuple[VolumeName, ...]) -> Iterator[None]:
    """The volumes are active inside, and inactive again afterwards; a failure inside is never hidden.

    One that somebody else has open meanwhile (``verify`` beside a replication) stays active: theirs to deactivate.
    """
    try:
        lvm.activate(names)
        yield
    except BaseException:
        with suppress(ThinsyncError):
            lvm.deactivate(names)
        raise
    with suppress(BusyError):
        lvm.deactivate(names)


def write_definition(
    lvm: Lvm,
    definition: Definition,
    key: ReplicaKey,
    role: Role,
    pool: VolumeName,
    domain_name: str,
    *,
    replaces: DefinitionVolume | None = None,
) -> None:
    """Put a definition on a new thin volume in ``pool``, on stable storage when this returns.

    ``replaces`` is a damaged volume of the same id: it goes, since of two with one id the first would be read.
    """
    packed = definition.pack()
    size = align_up(max(len(packed), _PREFIX), _BLOCK)
    taken = {volume.name for volume in lvm.volumes(pool.vg)}
    name = free_name(pool.vg, taken, domain_name, "def", suffix=short_id(definition.id))
    tag = format_tag(DefinitionMember(role, key, definition.id))
    lvm.create_thin(name, pool, size, (tag,), active=False)
    with activated(lvm, (name,)), BlockDevice(name.path, write=True) as device:
        whole = align_down(len(packed), _BLOCK)
        device.write(0, memoryview(packed)[:whole])
        if whole < len(packed):
            device.write(whole, packed[whole:].ljust(_BLOCK, b"\0"))
        device.sync()
    if replaces is not None:
        with suppress(BusyError):
            lvm.remove((replaces.volume.name,))


def read_definition(lvm: Lvm, entry: DefinitionVolume) -> Definition:
    """The definition on that volume. Raises PoolError when its content is not what its tag says."""
    for attempt in range(_ATTEMPTS):
        try:
            return _read(lvm, entry)
        except NotFoundError:
            # Somebody who read it as well has deactivated it between our activation and our open.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _read(lvm: Lvm, entry: DefinitionVolume) -> Definition:
    name = entry.volume.name
    with activated(lvm, (name,)), BlockDevice(name.path) as device:
        prefix = device.read(0, min(_PREFIX, entry.volume.size))
        try:
            length = packed_size(prefix)
            definition = unpack(prefix if length <= len(prefix) else device.read(0, align_up(length, _BLOCK)))
        except ThinsyncError as error:
            raise PoolError(f"{name}: {error.message}", hint=MADE_ANEW) from error
    if definition.id != entry.definition:
        raise PoolError(
            f"{name}: the definition on it is not {entry.definition}",
            hint=f"{MADE_ANEW}; if nothing crashed here, find out who wrote to it",
        )
    return definition


def holds_definition(lvm: Lvm, entry: DefinitionVolume | None) -> bool:
    """Whether the volume exists and its content is whole."""
    if entry is None:
        return False
    try:
        read_definition(lvm, entry)
    except PoolError:
        return False
    return True
