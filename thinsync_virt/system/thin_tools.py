"""thin_dump and thin_delta: all mappings of one thin device, and the difference of two, read as a stream.

``thin_dump --dev-id 1`` (0.9.0 and 1.1.0; an unknown device is status 0 and no <device>)::

    <superblock ... data_block_size="128" ...>                  the chunk, in sectors
      <device dev_id="1" mapped_blocks="5" ...>
        <range_mapping origin_begin="0" data_begin="0" length="4" time="0"/>
        <single_mapping origin_block="9" data_block="50" time="2"/>

``thin_delta --snap1 1 --snap2 2`` (an unknown device is an error)::

    <superblock ... data_block_size="128" ...>
      <diff left="1" right="2">
        <same begin="0" length="3"/> <different begin="3" length="1"/>
        <right_only begin="7" length="1"/> <left_only begin="9" length="1"/>

On a live pool both read the metadata snapshot: ``--metadata-snap`` without a number (thin_delta 1.x takes none).
Version 1.0.0 ignores it, and is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from thinsync_virt.errors import CommandError, NotFoundError, PoolError
from thinsync_virt.model.extents import Extent, ExtentKind, coalesce
from thinsync_virt.system.process import reading, run
from thinsync_virt.units import KIB, SECTOR

_PIECE = 256 * KIB
_HINT = "run thin_check on the pool's metadata; the pool must be active"
_KINDS = {"different": ExtentKind.DATA, "right_only": ExtentKind.DATA, "left_only": ExtentKind.UNMAPPED}


@dataclass(frozen=True, slots=True)
class ThinTools:
    """The tools on one pool's metadata: a device, or a file.

    ``metadata_snapshot``: read the pool's metadata snapshot, which the caller holds; a live pool cannot be read
    otherwise. ``dump`` and ``delta`` name the tools. Extents are ascending, joined, in bytes, not clipped to a
    volume's size, and good only once the iterator has ended without an error.
    """

    metadata: str
    metadata_snapshot: bool
    dump: str = "thin_dump"
    delta: str = "thin_delta"

    def mappings(self, thin_id: int) -> Iterator[Extent]:
        """All mapped ranges of a device, as data. Raises NotFoundError, CommandError, PoolError."""
        argv = [self.dump, *self._options(self.dump), "--dev-id", str(_check_id(thin_id)), self.metadata]
        return coalesce(_parse(argv, _Dump(thin_id)))

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        """What makes ``head`` of ``base``: in head and different is data, in base only is unmapped.

        Raises NotFoundError, CommandError, PoolError.
        """
        return coalesce(self._difference(base_id, head_id))

    def unchanged(self, base_id: int, head_id: int) -> bool:
        """Whether no mapping differs. Raises as :meth:`difference`."""
        with contextlib.closing(self._difference(base_id, head_id)) as found:
            return next(found, None) is None

    def _difference(self, base_id: int, head_id: int) -> Generator[Extent, None, None]:
        argv = [self.delta, *self._options(self.delta), "--snap1", str(_check_id(base_id))]
        argv += ["--snap2", str(_check_id(head_id)), self.metadata]
        return _parse(argv, _Delta(base_id, head_id))

    def _options(self, tool: str) -> list[str]:
        if not self.metadata_snapshot:
            return []
        if tool_version(tool) == "1.0.0":
            raise CommandError(
                (tool,),
                1,
                "version 1.0.0 ignores --metadata-snap",
                hint="apt install thin-provisioning-tools (1.1)",
            )
        return ["--metadata-snap"]


def device_ids(metadata: str, *, metadata_snapshot: bool = True, tool: str = "thin_ls") -> frozenset[int]:
    """The ids of all devices in a pool's metadata. Raises CommandError, PoolError."""
    options = ["--metadata-snap"] if metadata_snapshot else []
    said = run([tool, *options, "--no-headers", "--format", "DEV", metadata], timeout=600, hint=_HINT).stdout
    try:
        return frozenset(_number(word) for word in said.split())
    except ValueError as error:
        raise PoolError(f"{tool} printed what makes no sense: {error}", hint=_HINT) from error


def tool_version(tool: str) -> str:
    """The version of one of the thin tools, such as ``1.1.0``. Raises CommandError."""
    said = run([tool, "--version"], timeout=10).stdout
    match = re.search(r"\d+(?:\.\d+)+", said)
    return match[0] if match else said.strip()


def _check_id(thin_id: int) -> int:
    if not 0 <= thin_id < 1 << 24:
        raise PoolError(f"{thin_id} is no thin device id", hint="LVM shows them: lvs -o lv_name,thin_id")
    return thin_id


def _parse(argv: list[str], reader: _Dump | _Delta) -> Generator[Extent, None, None]:
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        with reading(argv, hint=_HINT) as output:
            while piece := output.read(_PIECE):
                parser.Parse(piece, False)
                yield from reader.take()
        # Only now is the exit status known to be 0.
        parser.Parse(b"", True)
        reader.finish(argv[0])
    except CommandError as error:
        if "unable to find mapping tree" in error.stderr.lower():
            raise NotFoundError(f"{argv[0]}: {error}", hint="see: lvs -o+thin_id,transaction_id") from error
        raise
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise PoolError(f"{argv[0]} printed what makes no sense: {error}", hint=_HINT) from error


@dataclass
class _Reader:
    """What both formats share: the chunk size, ascending ranges, a whole document."""

    chunk: int = 0
    position: int = 0
    whole: bool = False
    found: list[Extent] = field(default_factory=list)

    def take(self) -> list[Extent]:
        taken, self.found = self.found, []
        return taken

    def superblock(self, attributes: dict[str, str]) -> None:
        sectors = _number(attributes["data_block_size"])
        if not 128 <= sectors <= 2097152 or sectors % 128:
            raise ValueError(f"data_block_size {sectors}")
        self.chunk = sectors * SECTOR

    def add(self, begin: int, length: int, kind: ExtentKind | None) -> None:
        if not self.chunk or begin < self.position or length < 1:
            raise ValueError(f"range {begin}+{length} out of order")
        self.position = begin + length
        if kind is not None:
            self.found.append(Extent(begin * self.chunk, length * self.chunk, kind))

    def end(self, name: str) -> None:
        self.whole = self.whole or name == "superblock"


@dataclass
class _Dump(_Reader):
    """Reads thin_dump."""

    thin_id: int = 0
    devices: int = 0
    expected: int = 0
    mapped: int = 0

    def __init__(self, thin_id: int) -> None:
        super().__init__()
        self.thin_id = thin_id

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name:
            case "superblock":
                self.superblock(attributes)
            case "device":
                if _number(attributes["dev_id"]) != self.thin_id:
                    raise ValueError(f"device {attributes['dev_id']} instead of {self.thin_id}")
                self.devices += 1
                self.expected = _number(attributes["mapped_blocks"])
            case "range_mapping":
                self._mapping(_number(attributes["origin_begin"]), _number(attributes["length"]))
            case "single_mapping":
                self._mapping(_number(attributes["origin_block"]), 1)
            case _:
                raise ValueError(f"element {name}")

    def _mapping(self, begin: int, length: int) -> None:
        self.mapped += length
        self.add(begin, length, ExtentKind.DATA)

    def finish(self, tool: str) -> None:
        if self.devices == 0:
            raise NotFoundError(
                f"{tool}: there is no device {self.thin_id} in the pool", hint="see: lvs -o+thin_id"
            )
        if self.devices != 1 or not self.whole or self.mapped != self.expected:
            raise PoolError(
                f"{tool}: device {self.thin_id} has {self.mapped} chunks instead of {self.expected}",
                hint=_HINT,
            )


@dataclass
class _Delta(_Reader):
    """Reads thin_delta."""

    base_id: int = 0
    head_id: int = 0
    diffs: int = 0

    def __init__(self, base_id: int, head_id: int) -> None:
        super().__init__()
        self.base_id = base_id
        self.head_id = head_id

    def start(self, name: str, attributes: dict[str, str]) -> None:
        match name:
            case "superblock":
                self.superblock(attributes)
            case "diff":
                ids = (_number(attributes["left"]), _number(attributes["right"]))
                if ids != (self.base_id, self.head_id):
                    raise ValueError(f"devices {ids}")
                self.diffs += 1
            case "same" | "different" | "left_only" | "right_only":
                self.add(_number(attributes["begin"]), _number(attributes["length"]), _KINDS.get(name))
            case _:
                raise ValueError(f"element {name}")

    def finish(self, tool: str) -> None:
        if self.diffs != 1 or not self.whole:
            raise PoolError(f"{tool} printed only a part", hint=_HINT)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ValueError(f"{text!r} is not a number")
    return int(text)
