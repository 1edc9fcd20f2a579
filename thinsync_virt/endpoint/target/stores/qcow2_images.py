"""What a qcow2 file stands on: as it is written in it, and as the record has it."""

from __future__ import annotations

from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Chain
from thinsync_virt.endpoint.target.stores.plain import cannot_go_on, is_same, require_left
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.errors import CommandError, PoolError
from thinsync_virt.system.qcow2 import ImageFacts, image_facts


def backing_of(base: Path | None) -> str:
    """How an image names the one of another point on which it stands.

    As it is seen from the point's directory, beside the other's: a store may be moved as a whole.
    """
    return f"../{base.parent.name}/{base.name}" if base is not None else ""


def check_chain(folder: DomainFolder, chain: Chain) -> None:
    """What QEMU would read beneath the first of these images is what the record says. Raises PoolError.

    A merge that was cut short may have let an image stand on a file further down, where all between are retired.
    """
    links = list(chain)
    while links:
        upper, links = folder.file(*links[0]), links[1:]
        if links and links[0][0].retired:
            links = _beneath(folder, upper, links)
        check_image(upper, folder.file(*links[0]) if links else None)


def _beneath(
    folder: DomainFolder, upper: Path, links: list[tuple[PointRecord, DiskRecord]]
) -> list[tuple[PointRecord, DiskRecord]]:
    """Of what is beneath ``upper`` by the record, the part from the file on which it does stand."""
    facts = image_facts(upper)
    for number, link in enumerate(links):
        path = folder.file(*link)
        if is_same(upper, path) or not strange(facts, path):
            return links[number:]
        if not link[0].retired:
            return links
    return links if strange(facts, None) else []


def check_image(path: Path, base: Path | None) -> None:
    """What QEMU would read beneath an image, or write it to, is what the record says. Raises PoolError."""
    if base is not None and is_same(path, base):
        return  # a merge was cut short after it had renamed
    reason = strange(image_facts(path), base)
    if reason:
        raise PoolError(
            f"{path} {reason}",
            hint="somebody rebased it: choose another point, see: thinsync-vm points DOMAIN --to TARGET; or remove"
            " that file, and the next run goes on without it",
        )


def strange(facts: ImageFacts, base: Path | None) -> str:
    """What of an image that stands on ``base`` leads to other files than the record; "" where nothing does."""
    if facts.data_file:
        return f"keeps its data in {facts.data_file[:200]!r}, and by the record in itself"
    if facts.backing != backing_of(base):
        return f"stands on {facts.backing[:200]!r}, and by the record on {backing_of(base)!r}"
    return ""


def check_left(path: Path, base: Path | None) -> None:
    """An image in which a transfer goes on is still one, and leads nowhere else. Raises StreamError."""
    require_left(path)
    try:
        reason = strange(image_facts(path), base)
    except CommandError as error:
        raise cannot_go_on(path, error.message) from error
    if reason:
        raise cannot_go_on(path, f"it {reason}")
