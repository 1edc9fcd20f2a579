"""Every flush of the product by name (``flush_sites.py``): what proves that it is needed, or why nothing can.

A proof is a story of ``tests/contract/flushes/`` that is told without that flush, on files that lose at a power cut
whatever was not flushed, until the loss is seen; and that loses nothing with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """``story`` is one of a target of ``kind``, or of its own where kind is "". ``partly``: of what was not flushed,
    single changes of directories survive. ``also``: flushes that cover the same, and are left out with it."""

    story: str
    kind: str = ""
    partly: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class InLab:
    """Proven on a node whose disks lose what was not flushed: a change of ``flush_scenarios.py``, cut behind it.

    ``apart``: seen only where LVM's text and the pool lie on different disks. On one disk the pool's own commits, which
    such a change is followed by, flush the text too.
    """

    change: str
    apart: bool = False


@dataclass(frozen=True)
class Spared:
    """Why its loss does no harm, or cannot be seen."""

    reason: str


_SYNC_PARENT = "write_durably/make_directory/sync_directory"
_CLEANED = "what comes back is removed, or given its new name, once more by the next run"
_THERE = Spared("its directory has been made, and flushed, before")
_RUN = Spared(
    "leases lie in /run: a power cut ends the guests and the leases alike, only a process may be killed"
)
_HOST_CACHE = Spared(
    "LVM's suspension of the origin flushes the same; done before, it makes the window short"
)
_SEALED = "plain.seal_file/sync_file"

_GROUP = "flush_group/flush_disks"

FLUSHES: dict[str, Proof | InLab | Spared] = {
    # The receiver on thin pools
    "staging.Staging.seal/sync": Proof("next", "thin"),
    "definition_volume.write_definition/sync": Proof("first", "thin"),
    "checkpoints.Checkpoints.record/sync": Proof("going on", "thin"),
    f"journal.TransferJournal.write/{_SYNC_PARENT}": Proof("going on", "thin"),
    "journal.TransferJournal.write/write_durably": Proof("going on", "thin"),
    "journal.TransferJournal.write/write_durably/sync_directory": Proof("going on", "thin"),
    "journal.TransferJournal.remove/remove_durably/sync_directory": Spared(
        "a journal speaks of one unsealed set: when that is sealed or gone, it is as none"
    ),
    "sown_sets.SownSets.write/make_directory/sync_directory": Proof("journal beside a note"),
    "staging.VolumeStaging.finish/sync": Proof("volume received"),
    # Registering
    "register.define/write_durable": Proof("registered"),
    "register.define/write_durable/_make_parents/sync_path": Proof("registered"),
    "register.define/write_durable/sync_path": Proof("registered"),
    "register._settle/sync_path": Proof("registered"),
    "register._settle/sync_path#2": Proof("registered"),
    "register._settle/sync_path#3": Proof("autostart off"),
    "register.settle_all/sync_path": Proof("settled"),
    "register.settle_all/sync_path#2": Proof("settled"),
    "tpm_state._make_directories/sync_path": Proof("TPM state named"),
    "tpm_state._write": Proof("TPM state placed"),
    "tpm_state._write/sync_path": Proof("TPM state placed"),
    "tpm_state._end_hold/sync_path": Proof("TPM state gone"),
    "tpm_state._keep/sync_path": Spared("the flush after the write to the same place covers the rename"),
    # Stores
    f"directory.DomainFolder.commit/{_SYNC_PARENT}": _THERE,
    "directory.DomainFolder.commit/write_durably": Proof("next", "archive"),
    "directory.DomainFolder.commit/write_durably/sync_directory": Proof("next", "archive"),
    "directory.StoreDirectory.ensure/make_directory/sync_directory": Proof("first", "archive"),
    "directory.StoreDirectory.ensure/write_new": Proof("first", "archive"),
    "directory.StoreDirectory.ensure/write_new/sync_directory": Proof("first", "archive", partly=True),
    "directory.StoreDirectory.make_domain/make_directory/sync_directory": Proof("first", "archive"),
    "directory.write_definition/write_new": Proof("first", "archive"),
    "directory.write_definition/write_new/sync_directory": Spared(
        "the directory is flushed again after the last part"
    ),
    "directory.write_definition/sync_directory": Proof("next", "archive"),
    "arrival.StorePart.open/sync_directory": Proof("going on", "archive"),
    "arrival.StorePart.seal/sync_directory": Proof("next", "archive", partly=True),
    "arrival.StorePart.seal/sync_directory#2": Spared(
        "what comes back are marks that a named point does not need"
    ),
    f"progress.write_progress/{_SYNC_PARENT}": _THERE,
    "progress.write_progress/write_durably": Proof("going on", "archive"),
    "progress.write_progress/write_durably/sync_directory": Proof("going on", "archive"),
    "plain.mark_removable/sync_directory": Proof("next", "archive"),
    "plain.remove_tree/sync_directory": Proof("retention", "archive"),
    _SEALED: Proof("next", "archive", also=("stream_files.StreamFileWriter.finish",)),
    "cleaning._set_aside/sync_directory": Spared(_CLEANED),
    "cleaning._bring_back/sync_directory": Spared(_CLEANED),
    "stream_files.StreamFileWriter.checkpoint": Proof("going on", "archive"),
    "stream_files.StreamFileWriter.finish": Proof("next", "archive", also=(_SEALED,)),
    "stream_files.StreamFileWriter._put": Spared(
        "it keeps the page cache small; checkpoint and end flush again"
    ),
    "archive.ArchiveKeeper.merge/sync_directory": Proof("retention", "archive"),
    "raw.RawWriter.checkpoint/sync": Proof("going on", "file"),
    "qcow2.Qcow2Writer.checkpoint/sync": Proof("going on", "qcow2"),
    "qcow2_merging._commit/shrink_image/sync": Spared(
        "QEMU flushes when it lets go of the image; asked before, it tells of what was lost"
    ),
    "qcow2_merging._commit/sync_directory": Proof("retention", "qcow2", partly=True),
    "qcow2_merging._replace/sync_directory": Proof("tables gone bad", "qcow2", partly=True),
    "seeding._make_directory/sync_directory": Proof("repair broken off", "file"),
    f"sown.write_seed/{_SYNC_PARENT}": _THERE,
    "sown.write_seed/write_durably": Proof("repair broken off", "file"),
    "sown.write_seed/write_durably/sync_directory": Proof("repair broken off", "file"),
    "sown.bring_back_sown/sync_directory": Spared(_CLEANED),
    "images.SparseFile.write/sync": Spared("it keeps the page cache small; checkpoint and end flush again"),
    # The borrowed metadata snapshot
    f"metadata_lease.MetadataLeases._write/{_SYNC_PARENT}": Proof("intent"),
    "metadata_lease.MetadataLeases._write/write_durably": Spared(
        "a record that is there and says nothing is taken for an intent, which it was"
    ),
    "metadata_lease.MetadataLeases._write/write_durably/sync_directory": Proof("intent"),
    "metadata_lease.MetadataLeases._give_back/remove_durably/sync_directory": Proof("given back"),
    "metadata_lease.MetadataLeases._give_back/remove_durably/sync_directory#2": Proof("taken away"),
    "metadata_lease.MetadataLeases._reserve/remove_durably/sync_directory": Proof("somebody was faster"),
    "metadata_lease.MetadataLeases._reserve/remove_durably/sync_directory#2": Proof("pool refused"),
    "metadata_lease.MetadataLeases._reserve/remove_durably/sync_directory#3": Proof("vanished at once"),
    "metadata_lease.MetadataLeases._clean/remove_durably/sync_directory": Proof("cleaned up"),
    "metadata_lease.MetadataLeases.release_foreign/remove_durably/sync_directory": Proof("released by hand"),
    # Caches and outputs
    f"pool_times.PoolTimes.note/{_SYNC_PARENT}": Spared(
        "a cache: the first sample of a pool is lost with it"
    ),
    "pool_times.PoolTimes.note/write_durably": Proof("pool times"),
    "pool_times.PoolTimes.note/write_durably/sync_directory": Spared("a cache: its newest sample is lost"),
    f"receive_command._write_definition/{_SYNC_PARENT}": Proof("definition to a file"),
    "receive_command._write_definition/write_durably": Proof("definition to a file"),
    "receive_command._write_definition/write_durably/sync_directory": Proof("definition to a file"),
    "pipes.open_output": Proof("stream to a file"),
    "pipes.open_output/sync_directory": Proof("stream to a file"),
    # The source
    "window.write_out/flush_host_cache": _HOST_CACHE,
    "origins.LvmOrigins.flush.flush_one/flush_host_cache": _HOST_CACHE,
    # The guard's leases
    f"leases.OpenLease._save/{_SYNC_PARENT}": _RUN,
    "leases.OpenLease._save/write_durably": _RUN,
    "leases.OpenLease._save/write_durably/sync_directory": _RUN,
    "leases.OpenLease._save/remove_durably/sync_directory": _RUN,
    # What LVM commits
    f"lvm.Lvm.settle/{_GROUP}": InLab("confirm_snapshots", apart=True),
    f"lvm.Lvm.create_thin/_change/{_GROUP}": InLab("create_thin", apart=True),
    f"lvm.Lvm._remove/_change/{_GROUP}": InLab("remove", apart=True),
    f"lvm.Lvm.change_tags/_change/{_GROUP}": InLab("change_tags"),
    f"lvm.Lvm._permit/_change/{_GROUP}": InLab("_permit"),
    f"lvm.Lvm.resize/_change/{_GROUP}": InLab("resize"),
    f"lvm.Lvm.resize/_change/{_GROUP}#2": Spared(
        "the same with an option that one of the two releases wants"
    ),
    f"lvm.Lvm.rename/_change/{_GROUP}": InLab("rename"),
    f"lvm.Lvm.activate_group/{_GROUP}": Spared(
        "what activation commits (an interrupted change of the pool) the next activation commits again"
    ),
}
