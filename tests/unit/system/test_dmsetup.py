from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.errors import CommandError, NotFoundError, PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.system import dmsetup
from thinsync_virt.system.dmsetup import (
    DmSetup,
    ThinStatus,
    parse_pool_status,
    parse_thin_status,
    parse_thin_statuses,
)
from thinsync_virt.system.process import Completed

SAMPLES = Path(__file__).parent / "samples"
LINE = "0 8388608 thin-pool 4 118/1024 512/65536 {held} {mode} discard_passdown {full} {check} 1024"


def line(held: str = "-", mode: str = "rw", full: str = "queue_if_no_space", check: str = "-") -> str:
    return LINE.format(held=held, mode=mode, full=full, check=check)


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_what_a_real_pool_says(release: str) -> None:
    status = parse_pool_status((SAMPLES / release / "status").read_text(), "vg0/sys")
    assert status.mode is PoolMode.RW
    assert (status.total_metadata, status.total_data) == (4096, 16384)
    assert status.held_root is None
    assert status.queue_if_no_space
    assert not status.needs_check
    assert parse_thin_status((SAMPLES / release / "thin").read_text(), "vg0/so1").mapped >= 0


def test_every_field() -> None:
    status = parse_pool_status(line(), "p")
    assert (status.transaction_id, status.used_metadata, status.total_metadata) == (4, 118, 1024)
    assert (status.used_data, status.total_data) == (512, 65536)


def test_states() -> None:
    assert parse_pool_status(line(held="900"), "p").held_root == 900
    assert parse_pool_status(line(mode="ro"), "p").mode is PoolMode.READ_ONLY
    assert parse_pool_status(line(mode="out_of_data_space"), "p").mode is PoolMode.OUT_OF_DATA_SPACE
    assert parse_pool_status(line(check="needs_check"), "p").needs_check
    assert not parse_pool_status(line(full="error_if_no_space"), "p").queue_if_no_space
    assert parse_pool_status("0 8388608 thin-pool Fail", "p").mode is PoolMode.FAILED
    assert parse_pool_status("0 8388608 thin-pool Error", "p").mode is PoolMode.FAILED


def test_thin_volumes() -> None:
    assert parse_thin_status("0 524288 thin 4096 524287", "v") == ThinStatus(4096 * 512, 524288 * 512)
    assert parse_thin_status("0 524288 thin 0 -", "v") == ThinStatus(0, 0)
    with pytest.raises(PoolError, match="failed"):
        parse_thin_status("0 524288 thin Fail", "v")


def test_all_thin_volumes_at_once() -> None:
    """Of one that has failed, and of devices that LVM did not make, nothing is said; no other is lost by that."""
    said = (
        "vg0-web01: 0 524288 thin 4096 524287\n"
        "vg--a-web--1: 0 524288 thin 0 -\n"
        "vg0-gone: 0 524288 thin Fail\n"
        "vg0-old-real: 0 524288 thin 8 15\n"
        "docker-8:1-1234-c0ffee-x: 0 524288 thin 8 15\n"
    )
    assert parse_thin_statuses(said) == {
        VolumeName("vg0", "web01"): ThinStatus(4096 * 512, 524288 * 512),
        VolumeName("vg-a", "web-1"): ThinStatus(0, 0),
    }
    assert parse_thin_statuses("No devices found\n") == {}


@pytest.mark.parametrize("count", [3, 300])
def test_one_process_does_for_all_thin_volumes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def answer(argv: list[str], **_: object) -> Completed:
        started.append(argv)
        return Completed(tuple(argv), 0, "".join(f"vg0-v{n}: 0 8 thin 8 7\n" for n in range(count)), "")

    monkeypatch.setattr(dmsetup, "run", answer)
    assert len(DmSetup().thin_statuses()) == count
    assert len(started) == 1


@given(st.text(alphabet="0123456789 -/abr\n", max_size=60))
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(PoolError):
        parse_pool_status(text, "p")
    with pytest.raises(PoolError):
        parse_thin_status(text, "v")


def test_a_changed_field_is_an_error() -> None:
    for bad in (
        line(held="x"),
        line(mode="rx"),
        line().replace("118/1024", "118"),
        line().replace(" 4 ", " -4 "),
    ):
        with pytest.raises(PoolError):
            parse_pool_status(bad, "p")


def test_a_pool_that_never_had_a_volume_is_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(argv: list[str], timeout: float) -> Completed:
        asked.append(argv[3] if argv[1] == "status" else argv[2])
        if asked[-1].endswith("-tpool"):
            raise CommandError(tuple(argv), 1, "Device vg0-pool-tpool not found")
        return Completed(tuple(argv), 0, line() if argv[1] == "status" else "", "")

    monkeypatch.setattr(dmsetup, "run", run)
    assert DmSetup().pool_status(VolumeName("vg0", "pool")).mode is PoolMode.RW
    DmSetup().reserve(VolumeName("vg0", "pool"))
    assert asked == ["vg0-pool-tpool", "vg0-pool"] * 2


def test_a_pool_that_is_not_there_is_not_active(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str], timeout: float) -> Completed:
        raise CommandError(tuple(argv), 1, "Device vg0-pool not found")

    monkeypatch.setattr(dmsetup, "run", run)
    with pytest.raises(NotFoundError, match="not active"):
        DmSetup().pool_status(VolumeName("vg0", "pool"))


def test_a_reservation_without_an_answer_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel goes on with it: whoever has it on record as ours must keep that record."""
    status: int | None = None

    def run(argv: list[str], timeout: float) -> Completed:
        raise CommandError(tuple(argv), status, "no end after 20 s" if status is None else "Invalid argument")

    monkeypatch.setattr(dmsetup, "run", run)
    with pytest.raises(CommandError) as caught:
        DmSetup().reserve(VolumeName("vg0", "pool"))
    assert caught.value.status is None
    status = 1
    with pytest.raises(PoolError, match="refuses"):
        DmSetup().reserve(VolumeName("vg0", "pool"))
