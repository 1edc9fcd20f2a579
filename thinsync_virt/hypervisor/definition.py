"""Collect a domain's definition at the source: XML, NVRAM, TPM state, small media, digests of boot files, choices.

Equal facts give equal bytes, since the id of a definition decides whether anything has changed. Our own mark stays
out of it: it tells about this host, not about the domain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from thinsync_virt.errors import NotFoundError, NotReplicableError, StreamError
from thinsync_virt.hypervisor.files import digest_soon, read_soon
from thinsync_virt.hypervisor.inspect import FindPath
from thinsync_virt.hypervisor.mark import strip_mark
from thinsync_virt.hypervisor.markup import Element, name_of, parse, serialize, text_at, value_at
from thinsync_virt.hypervisor.tpm import emulator_of, state_name, state_path
from thinsync_virt.model.definition import (
    BOOT,
    CHOICES,
    DOMAIN_XML,
    MAX_PART,
    MAX_TPM,
    MEDIA,
    NVRAM,
    TPM,
    Definition,
)
from thinsync_virt.model.replicas import Choices

ReadFile = Callable[[str, int], bytes | None]
"""Content of a small regular file; None when it is longer than the limit. Raises NotFoundError."""

MAX_BOOT_FILES = 64
"""Files of the host that one domain may boot from; each is read whole at both ends."""
_ONCE = ("name", "uuid", "metadata", "os", "devices")
"""libvirt writes these once. Of two it takes some parts from the first and some from the second; we look at one."""
_NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file of the host that the guest boots from and that does not travel.

    ``role`` is kernel, initrd, shim, dtb, loader, acpi, fwcfg or rom; ``sha256`` is "" when it could not be read.
    """

    role: str
    path: str
    size: int
    sha256: str


def collect(
    root: Element,
    choices: Choices,
    nvram: bytes | None,
    find_path: FindPath,
    read_file: ReadFile = read_soon,
    tpm: bytes | None = None,
) -> Definition:
    """The definition of a domain from its persistent XML (with secrets); changes ``root``.

    Raises NotReplicableError when it boots from more files than can be compared.
    """
    strip_mark(root)
    parts = {DOMAIN_XML: serialize(root).encode(), CHOICES: choices.to_json()}
    if nvram is not None:
        parts[NVRAM] = nvram
    if tpm is not None and (backend := emulator_of(root)) is not None:
        parts[TPM + state_name(backend)] = checked_tpm(tpm, root)
    for target, path in _media(root, find_path):
        if target in choices.excluded:
            continue
        try:
            image = read_file(path, MAX_PART)
        except NotFoundError:
            continue  # reported at the target as a missing medium
        if image is not None:
            parts[MEDIA + target] = image
    if len(boot_paths(root)) > MAX_BOOT_FILES:
        raise NotReplicableError(
            _too_many(len(boot_paths(root))),
            hint="see <sysinfo type='fwcfg'> and <acpi> in: virsh dumpxml DOMAIN",
        )
    if files := tuple(_boot_files(root)):
        parts[BOOT] = _format_boot(files)
    return Definition(parts)


def nvram_file(persistent: Element, live: Element | None = None) -> str | None:
    """The path of the UEFI variables' file, None when the domain has none.

    libvirt before 9.2 settles the path only when the domain starts: then it is the live definition's, or the
    place where libvirt will put it.
    """
    for root in (persistent, live):
        if root is None:
            continue
        path = text_at(root, "os/nvram") or value_at(root, "os/nvram/source", "file")
        if path.startswith("/"):
            return path
    if (value_at(persistent, "os/nvram", "type") or "file") != "file":
        return None
    if uses_nvram(persistent):
        return f"{_NVRAM_DIRECTORY}/{name_of(persistent)}_VARS.fd"
    return None


def checked_tpm(state: bytes, root: Element) -> bytes:
    """The TPM's state. Raises NotReplicableError when it cannot be one."""
    if 0 < len(state) <= MAX_TPM:
        return state
    what = "is empty" if not state else f"has {len(state)} bytes, at most {MAX_TPM} are a TPM's"
    raise NotReplicableError(
        f"the state of the domain's TPM {what}",
        hint=f"look at {state_path(root)}; does the guest start with it? Without it its keys are gone",
    )


def uses_nvram(root: Element) -> bool:
    """Whether libvirt keeps UEFI variables for this domain."""
    loader = root.find("os/loader")
    if loader is not None and loader.get("stateless") == "yes":
        return False
    kind = "" if loader is None else loader.get("type", "")
    # Firmware in a ROM (SEV, TDX) has no place for any, even if libvirt chose it.
    chosen = value_at(root, "os", "firmware") == "efi" and kind != "rom"
    return root.find("os/nvram") is not None or chosen or kind == "pflash"


def boot_files(definition: Definition) -> tuple[BootFile, ...]:
    """What ``boot.json`` says. Raises StreamError when it is damaged, or names more files than are read here."""
    data = definition.parts.get(BOOT)
    if data is None:
        return ()
    try:
        files = tuple(
            BootFile(str(entry["role"]), str(entry["path"]), int(entry["size"]), str(entry["sha256"]))
            for entry in json.loads(data)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StreamError("the digests of boot files in the definition are damaged", retry=False) from None
    if len(files) > MAX_BOOT_FILES:
        raise StreamError(_too_many(len(files)), retry=False)
    return files


def _too_many(count: int) -> str:
    return f"the domain boots from {count} files of the host, at most {MAX_BOOT_FILES} are compared"


def domain_root(definition: Definition) -> Element:
    """The parsed XML of a definition. Raises StreamError when it is not a domain's."""
    root = parse(definition.parts.get(DOMAIN_XML, b""), "the domain's definition")
    if root.tag != "domain":
        raise StreamError("the domain's definition is not a domain", retry=False)
    for tag in _ONCE:
        if len(root.findall(tag)) > 1:
            raise StreamError(f"the domain's definition has its element {tag} twice", retry=False)
    return root


def _media(root: Element, find_path: FindPath) -> Iterator[tuple[str, str]]:
    """Target and path of each medium that may be a regular file."""
    for element in root.iterfind("devices/disk"):
        if (
            element.get("device") not in ("cdrom", "floppy")
            or (value_at(element, "driver", "type") or "raw") != "raw"
        ):
            continue
        source = element.find("source")
        if source is None:
            continue
        path = source.get("file", "")
        if element.get("type") == "volume":
            path = find_path(source.get("pool", ""), source.get("volume", ""))
        if path.startswith("/"):
            yield value_at(element, "target", "dev"), path


def boot_paths(root: Element) -> tuple[tuple[str, str], ...]:
    """Role and path of each file of the host that a domain boots from."""
    paths = [(role, text_at(root, f"os/{role}")) for role in ("kernel", "initrd", "shim", "dtb", "loader")]
    paths += [("acpi", (table.text or "").strip()) for table in root.iterfind("os/acpi/table")]
    paths += [("fwcfg", entry.get("file", "")) for entry in root.iterfind("sysinfo[@type='fwcfg']/entry")]
    paths += [("rom", rom.get("file", "")) for rom in root.iterfind("devices/interface/rom")]
    return tuple((role, path) for role, path in paths if path)


def _boot_files(root: Element) -> Iterator[BootFile]:
    for role, path in boot_paths(root):
        size, digest = digest_soon(path) or (0, "")
        yield BootFile(role, path, size, digest)


def _format_boot(files: tuple[BootFile, ...]) -> bytes:
    entries = [
        {"role": file.role, "path": file.path, "size": file.size, "sha256": file.sha256} for file in files
    ]
    return json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
