from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from thinsync_virt.endpoint.metadata_lease import MetadataLeases, pool_lock
from thinsync_virt.errors import BusyError, CommandError, ConflictError, PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus

NAME = VolumeName("vg0", "pool")
POOL = Pool(
    name=NAME,
    uuid="AnDhAN-mY8T-14SF-d72E-0js8-WVCR-I4KXyp",
    vg_uuid="60e8jK-eLXw-cwmi-icwG-Idyf-VzsY-onk5Ya",
    size=1 << 30,
    chunk_size=65536,
    metadata_size=16 << 20,
    transaction_id=1,
    zeroes=True,
    discards="passdown",
    active=True,
)
HEALTHY = PoolStatus(1, 10, 1024, 10, 1024, None, PoolMode.RW, needs_check=False, queue_if_no_space=True)


class Killed(BaseException):
    """The process ends here: nothing after it runs, no cleanup either."""


@dataclass
class FakePool:
    """A pool as the kernel has it: at most one metadata snapshot, whose block differs each time."""

    status: PoolStatus = HEALTHY
    next_block: int = 100
    log: list[str] = field(default_factory=list)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    after: dict[str, Callable[[], None]] = field(default_factory=dict)
    asker_killed: bool = False
    """What the process would do afterwards has no effect."""

    def kill(self) -> None:
        """The process that asks ends here."""
        self.asker_killed = True
        raise Killed

    def _look(self) -> None:
        if self.asker_killed:
            raise Killed

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        self._look()
        assert pool == NAME
        return self.status

    def reserve(self, pool: VolumeName) -> None:
        self._look()
        self.before.pop("reserve", lambda: None)()
        if self.status.held_root is not None:
            raise BusyError("there is one already")
        if self.status.mode is not PoolMode.RW:
            raise PoolError("refused")
        self.hold()
        self.log.append("reserve")
        self.after.pop("reserve", lambda: None)()

    def release(self, pool: VolumeName) -> None:
        self._look()
        self.before.pop("release", lambda: None)()
        self.drop()
        self.log.append("release")
        self.after.pop("release", lambda: None)()

    def hold(self) -> None:
        self.next_block += 1
        self.status = replace(self.status, held_root=self.next_block)

    def drop(self) -> None:
        self.status = replace(self.status, held_root=None)

    @property
    def held(self) -> int | None:
        return self.status.held_root


@pytest.fixture
def kernel() -> FakePool:
    return FakePool()


@dataclass
class Clock:
    now: float = 0.0
    on_sleep: Callable[[], object] = int

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(kernel: FakePool, clock: Clock, tmp_path: Path) -> MetadataLeases:
    return MetadataLeases(
        kernel, locks=tmp_path / "locks", records=tmp_path / "records", sleep=clock.sleep, clock=clock
    )


def records(tmp_path: Path) -> list[str]:
    directory = tmp_path / "records"
    return [path.name for path in directory.iterdir()] if directory.exists() else []


def test_it_is_held_inside_and_gone_afterwards(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    with leases.hold(POOL) as lease:
        assert kernel.pool_status(NAME).held_root == lease.held_root
        assert records(tmp_path) == [POOL.uuid]
        assert leases.is_ours(POOL)
    assert kernel.held is None
    assert records(tmp_path) == []
    assert leases.is_ours(POOL) is None


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_it_is_given_back_whatever_happens_inside(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), leases.hold(POOL):
        raise failure
    assert kernel.held is None
    assert records(tmp_path) == []


@pytest.mark.parametrize("moment", ["before reserve", "after reserve", "before release", "after release"])
def test_a_signal_while_the_kernel_is_asked_leaves_nothing_held(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, moment: str
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    when, _, what = moment.partition(" ")
    {"before": kernel.before, "after": kernel.after}[when][what] = stop
    with pytest.raises(KeyboardInterrupt), leases.hold(POOL):
        pass
    assert kernel.held is None
    # What was asked for may still be made; only with the record would it be known as ours then.
    assert records(tmp_path) == ([POOL.uuid] if moment == "before reserve" else [])


def test_an_intent_is_recorded_before_reserving(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    seen: list[list[str]] = []
    kernel.before["reserve"] = lambda: seen.append(records(tmp_path))
    with leases.hold(POOL):
        pass
    assert seen == [[POOL.uuid]]


def crash(leases: MetadataLeases, kernel: FakePool, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Die at a moment: what a killed process leaves, with no handler run."""

    def die() -> None:
        raise Killed

    when, _, what = moment.partition(" ")
    inside = die if what == "reading" else lambda: None
    with monkeypatch.context() as patched:
        if what == "reading":
            patched.setattr(leases, "_give_back", lambda pool, lease: None)
        else:
            patched.setattr(leases, "_clean", lambda pool: False)
            {"before": kernel.before, "after": kernel.after}[when][what] = die
        with pytest.raises(Killed), leases.hold(POOL):
            inside()


@pytest.mark.parametrize(
    "moment", ["before reserve", "after reserve", "in reading", "before release", "after release"]
)
def test_what_a_crash_left_is_recognised_and_released(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    crash(leases, kernel, monkeypatch, moment)
    left = kernel.held
    assert records(tmp_path) == [POOL.uuid]
    assert leases.recover(POOL) == (left is not None)
    assert kernel.held is None
    assert records(tmp_path) == []
    assert not leases.recover(POOL)


@pytest.mark.parametrize(
    "moment", ["before reserve", "after reserve", "in reading", "before release", "after release"]
)
def test_the_next_lease_needs_no_recovery(
    leases: MetadataLeases, kernel: FakePool, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    crash(leases, kernel, monkeypatch, moment)
    with leases.hold(POOL) as lease:
        assert kernel.held == lease.held_root
    assert kernel.held is None


def test_a_foreign_one_is_waited_for(leases: MetadataLeases, kernel: FakePool, clock: Clock) -> None:
    kernel.hold()
    clock.on_sleep = kernel.drop
    with leases.hold(POOL, foreign_wait=5):
        assert kernel.log == ["reserve"]


def test_a_foreign_one_is_never_released(
    leases: MetadataLeases, kernel: FakePool, clock: Clock, tmp_path: Path
) -> None:
    kernel.hold()
    foreign = kernel.held
    with pytest.raises(BusyError, match="somebody else") as caught, leases.hold(POOL, foreign_wait=5):
        pass
    assert "thinsync-vm pool release vg0/pool" in caught.value.hint
    assert clock.now == pytest.approx(5, abs=0.5)
    assert kernel.held == foreign
    assert records(tmp_path) == []
    assert not leases.recover(POOL)
    assert leases.is_ours(POOL) is False


def test_somebody_faster_is_not_taken_for_ours(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    kernel.before["reserve"] = kernel.hold
    with pytest.raises(BusyError, match="somebody else"), leases.hold(POOL, foreign_wait=0):
        pass
    assert kernel.held is not None
    assert records(tmp_path) == []


def test_a_record_of_another_block_claims_nothing(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(leases, kernel, monkeypatch, "in reading")
    kernel.drop()
    kernel.hold()
    foreign = kernel.held
    assert not leases.recover(POOL)
    assert kernel.held == foreign
    assert records(tmp_path) == []


def test_released_by_somebody_else_while_reading(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    def replace_it() -> None:
        kernel.drop()
        kernel.hold()

    with pytest.raises(BusyError, match="released by somebody else"), leases.hold(POOL):
        replace_it()
    assert kernel.held is not None
    assert records(tmp_path) == []


def test_cleaning_up_never_hides_the_first_failure(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    def fail() -> None:
        raise PoolError("refused")

    kernel.before["release"] = fail
    with pytest.raises(ValueError, match="first") as caught, leases.hold(POOL):
        raise ValueError("first")
    assert any("refused" in note for note in caught.value.__notes__)
    assert records(tmp_path) == [POOL.uuid]
    assert leases.recover(POOL)


@pytest.mark.parametrize(
    "status",
    [
        replace(HEALTHY, mode=PoolMode.READ_ONLY),
        replace(HEALTHY, mode=PoolMode.FAILED),
        replace(HEALTHY, needs_check=True),
    ],
)
def test_a_sick_pool_is_left_alone(
    leases: MetadataLeases, kernel: FakePool, status: PoolStatus, tmp_path: Path
) -> None:
    kernel.status = status
    with pytest.raises(PoolError, match="pool vg0/pool"), leases.hold(POOL):
        pass
    assert kernel.log == []
    assert records(tmp_path) == []


def test_a_refusal_leaves_no_record(leases: MetadataLeases, kernel: FakePool, tmp_path: Path) -> None:
    def refuse() -> None:
        raise PoolError("refused")

    kernel.before["reserve"] = refuse
    with pytest.raises(PoolError, match="refused"), leases.hold(POOL):
        pass
    assert records(tmp_path) == []


@pytest.mark.parametrize("takes_effect", [True, False])
def test_a_reservation_that_does_not_answer_in_time_stays_on_record(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, takes_effect: bool
) -> None:
    """Else what the kernel makes after all would be taken for somebody else's, and stay for ever."""

    def no_answer() -> None:
        raise CommandError(("dmsetup", "message"), None, "no end after 20 s", retry=True)

    kernel.before["reserve"] = no_answer
    with pytest.raises(CommandError), leases.hold(POOL):
        pass
    assert len(records(tmp_path)) == 1
    if takes_effect:
        kernel.hold()
        assert leases.is_ours(POOL) is True
    assert leases.recover(POOL) is takes_effect
    assert kernel.held is None
    assert records(tmp_path) == []


def test_the_lock_is_not_waited_for_inside_a_freeze(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path
) -> None:
    with pool_lock(POOL, wait=0, locks=tmp_path / "locks"):
        with pytest.raises(BusyError, match="pool vg0/pool: already running"), leases.hold(POOL, lock_wait=0):
            pass
        with pytest.raises(BusyError):
            leases.recover(POOL, lock_wait=0)
    assert kernel.log == []


def test_who_holds_it(leases: MetadataLeases, kernel: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert leases.holder(POOL) == Holder(HolderKind.NOBODY)
    with leases.hold(POOL) as lease:
        assert leases.holder(POOL) == Holder(HolderKind.RUNNING, lease.held_root, os.getpid())
    kernel.hold()
    assert leases.holder(POOL) == Holder(HolderKind.FOREIGN, kernel.held)
    kernel.drop()
    crash(leases, kernel, monkeypatch, "in reading")
    assert leases.holder(POOL) == Holder(HolderKind.CRASHED, kernel.held)


def test_a_run_that_begins_or_ends_meanwhile_is_no_crash_and_nobody_else(
    leases: MetadataLeases, kernel: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leases.hold(POOL)
    status = kernel.pool_status

    def seen(
        pool: VolumeName, *, first: Callable[[], object] = int, then: Callable[[], object] = int
    ) -> PoolStatus:
        monkeypatch.setattr(kernel, "pool_status", status)
        first()
        found = status(pool)
        then()
        return found

    monkeypatch.setattr(kernel, "pool_status", lambda pool: seen(pool, first=run.__enter__))
    found = leases.holder(POOL)
    assert found == Holder(HolderKind.RUNNING, kernel.held, os.getpid())
    monkeypatch.setattr(
        kernel, "pool_status", lambda pool: seen(pool, then=lambda: run.__exit__(None, None, None))
    )
    assert leases.holder(POOL) == found
    assert leases.holder(POOL) == Holder(HolderKind.NOBODY)


def test_only_the_one_that_was_asked_about_is_released(leases: MetadataLeases, kernel: FakePool) -> None:
    """Until somebody has answered, its reader may have ended, and another one begun."""
    kernel.hold()
    asked = kernel.held
    kernel.drop()
    kernel.hold()
    with pytest.raises(ConflictError, match=f"metadata block {kernel.held}, not {asked}"):
        leases.release_foreign(POOL, block=asked)
    assert kernel.held is not None
    assert leases.release_foreign(POOL, block=kernel.held)
    assert not leases.release_foreign(POOL, block=asked)


def test_the_operators_way_out(leases: MetadataLeases, kernel: FakePool) -> None:
    kernel.hold()
    assert leases.release_foreign(POOL)
    assert kernel.held is None
    assert not leases.release_foreign(POOL)


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"{}", b'{"block": "x"}'])
def test_a_damaged_record_counts_as_an_intent(
    leases: MetadataLeases, kernel: FakePool, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / POOL.uuid).write_bytes(content)
    kernel.hold()
    assert leases.recover(POOL)
    assert kernel.held is None
