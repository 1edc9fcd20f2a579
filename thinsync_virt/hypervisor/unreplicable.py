"""What a guest keeps outside its disks and NVRAM, and what therefore cannot travel yet."""

from __future__ import annotations

from thinsync_virt.hypervisor.markup import Element, value_at


def host_bound_state(root: Element) -> tuple[str, ...]:
    """Reasons, with remedies, why a domain's state is more than what is replicated. Empty: nothing of the kind."""
    problems = []
    if root.find("devices/tpm") is not None:
        backend = value_at(root, "devices/tpm/backend", "type") or "emulator"
        problems.append(
            f"has a TPM ({backend}), whose keys do not travel yet: without them the copy could not unlock what the "
            "guest sealed with them (BitLocker, LUKS); remove the TPM from the guest, or wait for a later version"
        )
    for memory in root.iterfind("devices/memory"):
        if memory.get("model") in ("nvdimm", "virtio-pmem"):
            problems.append(
                f"has persistent memory ({memory.get('model')}) in a file of the host, which does not travel: "
                "move its data to a disk and remove the device"
            )
            break
    if (kind := _nvram_kind(root)) not in ("", "file"):
        problems.append(f"has its UEFI variables on a {kind} device: only files travel; use an NVRAM file")
    return tuple(problems)


def _nvram_kind(root: Element) -> str:
    nvram = root.find("os/nvram")
    return "" if nvram is None else nvram.get("type", "file")
