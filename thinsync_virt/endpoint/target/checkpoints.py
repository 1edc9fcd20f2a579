"""What has come of a transfer is made durable, written down, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Mapping

from thinsync_virt.endpoint.target.filler import ChunkFiller
from thinsync_virt.endpoint.target.journal import Entry, TransferJournal
from thinsync_virt.endpoint.target.staging import Incoming
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.system.steps import reached


class Checkpoints:
    """The checkpoints of one transfer into one staging set."""

    def __init__(
        self,
        journal: TransferJournal,
        incoming: Incoming,
        volumes: Mapping[str, str],
        fillers: Mapping[str, ChunkFiller],
    ) -> None:
        """``volumes`` are the UUIDs of the staging volumes by disk target."""
        self._journal = journal
        self._incoming = incoming
        self._volumes = dict(volumes)
        self._fillers = fillers
        self._zeroing = {target: filler.pool_zeroes for target, filler in fillers.items()}
        # What differs from a seed is known only of the seed as it was; but what came is found equal the next time.
        self._seeded = Mode.SEEDED in incoming.modes.values()
        self._possible = all(filler.can_go_on for filler in fillers.values())
        self.recorded = any(incoming.starts.values())
        """Whether the journal speaks of this transfer."""

    def record(self, positions: Mapping[str, int]) -> dict[str, int] | None:
        """Sync all that came before ``positions`` (bytes by disk), then write it down; what is durable now.

        None where a transfer cannot go on in the middle, nothing has come, or it could not be written down: a full
        file system costs sending again, and must not stop a replication. Raises ThinsyncError when the sync fails.
        """
        proven = {target: filler.proven(positions[target]) for target, filler in self._fillers.items()}
        if not self._seeded and not (self._possible and any(proven.values())):
            return None
        for filler in self._fillers.values():
            filler.device.sync()
        if self._seeded:
            return None
        reached("checkpoint synced")
        incoming = self._incoming
        transfer = Interrupted(incoming.set_id, incoming.base, incoming.delta, proven)
        try:
            self._journal.write(Entry(incoming.key, transfer, self._volumes, self._zeroing))
        except ThinsyncError:
            return None
        self.recorded = True
        reached("checkpoint recorded")
        return proven
