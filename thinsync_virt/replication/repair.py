"""Which points are damaged at the target, and so have to be replaced by a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from thinsync_virt.errors import Code, DiffersError, ThinsyncError
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey, newest_common
from thinsync_virt.replication.verify import Proof, Prover, verify

_DAMAGE = frozenset({Code.POOL, Code.STREAM, Code.DIFFERS})
"""With these the target says of a point that it cannot be read, or is none. All else says nothing of the point."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One point compared.

    ``unreadable`` is why it could not be: the target cannot read it, or its disks are not those of the point. Then
    there is no proof.
    """

    point: RecoveryPoint
    proof: Proof | None
    unreadable: ThinsyncError | None = None

    @property
    def damaged(self) -> bool:
        """Whether the target's copy is not the source's."""
        return self.proof is None or not self.proof.same


def judge(
    ours: Prover, theirs: Prover, point: RecoveryPoint, progress: Callable[[int, int], None]
) -> Judgement:
    """Compare a point at both ends. Raises ThinsyncError for all that is not the target's copy of it."""
    try:
        return Judgement(point, verify(ours, _There(theirs), point, progress))
    except _UnreadableThereError as unreadable:
        return Judgement(point, None, unreadable.error)
    except DiffersError as error:
        # Other disks there, or of other sizes: somebody resized a volume, at whichever end.
        return Judgement(point, None, error)


def newest_other(
    ours: tuple[RecoveryPoint, ...], theirs: tuple[RecoveryPoint, ...], judged: RecoveryPoint
) -> RecoveryPoint | None:
    """The point that would be the next base, if it is another than ``judged``: the same chunks may be bad in it."""
    same = tuple(point for point in theirs if point.key == judged.key and point.id != judged.id)
    return newest_common(tuple(point for point in ours if point.key == judged.key), same)


class _UnreadableThereError(Exception):
    def __init__(self, error: ThinsyncError) -> None:
        super().__init__(error.message)
        self.error = error


@contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except ThinsyncError as error:
        if error.code in _DAMAGE:
            raise _UnreadableThereError(error) from error
        raise


@dataclass(frozen=True)
class _There:
    """The target's end; what it cannot read is told apart from what fails here."""

    end: Prover

    def points(self, domain: str) -> tuple[RecoveryPoint, ...]:
        return self.end.points(domain)

    def definition(self, key: ReplicaKey, point: str) -> str:
        with _noticing():
            return self.end.definition(key, point)

    def mapped(self, key: ReplicaKey, point: str, disk: str) -> bytes:
        with _noticing():
            return self.end.mapped(key, point, disk)

    def digests(self, key: ReplicaKey, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        with _noticing():
            return self.end.digests(key, point, disk, blocks, size)
