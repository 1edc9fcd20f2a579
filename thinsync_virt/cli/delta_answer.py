"""The answer to ``thinsync-vm delta``, from a request or from what was read of a live pool."""

from __future__ import annotations

import os
import sys
import time

from thinsync_virt.cli.bulk_output import BulkOutput
from thinsync_virt.cli.delta_rows import gathered
from thinsync_virt.cli.delta_shapes import Difference, JsonShape, ThinDeltaShape
from thinsync_virt.cli.failures import say
from thinsync_virt.errors import PoolError
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.thin.superblock import NoMetadataSnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from thinsync_virt.cli.delta_request import Request
    from thinsync_virt.cli.delta_shapes import Shape
    from thinsync_virt.thin.runs import Runs

_MOST_DIGITS = 9
"""Of a number of columns; what is longer is none."""


def answer(request: Request) -> None:
    """Print what was asked for. Raises NotFoundError, BusyError, PoolError, ThinsyncError, BrokenPipeError."""
    try:
        _answer(request)
    except NoMetadataSnapshotError as error:
        if not os.path.isfile(request.metadata):
            raise
        raise PoolError(
            error.message, hint="leave out --metadata-snap: a copy is read as the pool was when it was made"
        ) from error


def _answer(request: Request) -> None:
    begun = time.perf_counter()
    with MetadataReader(request.metadata, still=not request.metadata_snapshot) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=request.metadata_snapshot)
        found = Difference(metadata.trees, request.base, request.head, None)
        elsewhere = 0
        if request.shape == "text":
            print_batches(found, metadata.runs(request.base, request.head), "text")
        else:
            elsewhere = _print_parts(metadata, found, _shape(found, request.shape))
    if request.stats:
        print_stats(metadata.blocks_read + elsewhere, begun)


def print_batches(found: Difference, batches: Iterable[Runs], shape: str) -> None:
    """Ranges in one of the shapes of a request. Raises BrokenPipeError, ThinsyncError, and what ``batches`` raise."""
    out = BulkOutput()
    inside = found.within(batches)
    if shape == "text":
        _print_for_people(found, inside, out)
    else:
        _print_document(_shape(found, shape), inside, out)


def print_stats(blocks: int, begun: float) -> None:
    """What was read, on standard error. ``begun``: by the clock ``time.perf_counter``, in seconds."""
    passed = (time.perf_counter() - begun) * 1000
    say(f"{blocks} metadata blocks read ({blocks * 4096} bytes) in {passed:.1f} ms")


def _shape(found: Difference, name: str) -> Shape:
    return JsonShape(found) if name == "json" else ThinDeltaShape(found)


def _print_parts(metadata: ThinMetadata, found: Difference, shape: Shape) -> int:
    """How many blocks were read in other processes."""
    out: Any = BulkOutput()
    parts = metadata.parts(found.base, found.head)
    if len(parts) < 2:
        _print_document(shape, (runs for part in parts for runs in metadata.part_runs(part)), out)
        return 0
    from thinsync_virt.cli.delta_parts import Joined, work
    from thinsync_virt.system.forked import in_order

    joined = Joined(shape)
    in_order([work(metadata, part, shape) for part in parts], out, joined.noted)
    out.write(joined.end())
    out.flush()
    return joined.blocks_read


def _print_document(shape: Shape, batches: Iterable[Runs], out: BulkOutput) -> None:
    out.write(shape.opening)
    for runs in gathered(batches):
        for text in shape.rows(runs):
            out.write(text)
    out.write(shape.closing())
    out.flush()


def _print_for_people(found: Difference, batches: Iterable[Runs], out: BulkOutput) -> None:
    from thinsync_virt.cli import delta_people

    encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
    shades = delta_people.SHADES
    if shades.encode(encoding, "replace").decode(encoding) != shades:
        shades = delta_people.PLAIN_SHADES
    for line in delta_people.lines(found, batches, _terminal_columns(), shades):
        out.write(f"{line}\n".encode(encoding, "replace"))
    out.flush()


def _terminal_columns() -> int:
    """As shutil tells them, whose import takes longer than a small delta."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdecimal() and len(told) <= _MOST_DIGITS and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
