"""A store makes no copies from volumes: what is asked of it all the same is refused."""

from __future__ import annotations

from collections.abc import Mapping

from thinsync_virt.errors import UsageError
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices


def _refused() -> UsageError:
    return UsageError(
        "a directory makes no copy from a volume",
        hint="leave --seed out; or replicate to thin pools: --to HOST",
    )


class Seedless:
    """The calls of a target that speak of seeds. Each raises UsageError."""

    def look_at_seeds(
        self, key: ReplicaKey, choices: Choices, seeds: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        """None can be one."""
        raise _refused()

    def sow(
        self, key: ReplicaKey, point: RecoveryPoint, name: str, choices: Choices, seeds: Mapping[str, str]
    ) -> None:
        """Nothing is made."""
        raise _refused()

    def seed_mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        """Nothing was made."""
        raise _refused()

    def seed_digests(
        self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int
    ) -> bytes:
        """Nothing was made."""
        raise _refused()
