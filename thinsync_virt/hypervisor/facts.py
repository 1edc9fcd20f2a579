"""What a replica's definition is held against: the target host, as values.

Gathered by ``gather.py`` for one definition (only what that definition names is looked at), so that the
transformation in ``replica/`` is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FileFact:
    """Something at a path: ``kind`` is file, directory, block, char, socket, fifo or other. ``size`` in bytes.

    ``sha256`` is "" for files whose content nobody asked about, and for those that were not read (``digest_file``).
    """

    kind: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the host can run of one guest architecture. ``machines`` maps a name to its canonical one."""

    emulator: str
    machines: Mapping[str, str]
    domain_types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Firmware:
    """One UEFI build, as its descriptor says: flash image, template of its variables, features.

    ``machines`` are shell patterns. ``template_size`` in bytes, 0 when the template cannot be read.
    """

    executable: str
    template: str
    template_size: int
    format: str
    features: frozenset[str]
    architectures: frozenset[str]
    machines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DomainSupport:
    """libvirt's domain capabilities for one emulator and machine. An empty set means "it did not say"."""

    cpu_modes: frozenset[str] = frozenset()
    cpu_models: Mapping[str, bool] = field(default_factory=dict)
    loaders: frozenset[str] = frozenset()
    graphics: frozenset[str] = frozenset()
    videos: frozenset[str] = frozenset()
    launch_security: frozenset[str] = frozenset()
    tpm_models: frozenset[str] = frozenset()
    tpm_backends: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HostFacts:
    """One host, as far as one definition needs it.

    ``libvirt_version`` is libvirt's number (9000000 is 9.0.0); ``networks`` tells for each libvirt network whether
    it is active; ``devices`` are network devices, ``bridges`` those that are bridges; ``files`` holds the paths
    that exist; ``addresses`` those that a server can listen on; ``pages`` the total of each huge page size (KiB);
    ``memory`` in bytes; ``secrets`` UUIDs and ``USAGE-TYPE:ID`` of libvirt secrets.
    ``cpu_runs`` is libvirt's answer whether the definition's custom CPU can run here, None when it was not asked.
    """

    libvirt_version: int = 0
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    support: DomainSupport = DomainSupport()
    networks: Mapping[str, bool] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    bridges: frozenset[str] = frozenset()
    files: Mapping[str, FileFact] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    cpus: frozenset[int] = frozenset()
    nodes: frozenset[int] = frozenset()
    pages: Mapping[int, int] = field(default_factory=dict)
    memory: int = 0
    secrets: frozenset[str] = frozenset()
    filters: frozenset[str] = frozenset()
    security_models: frozenset[str] = frozenset()
    firmwares: tuple[Firmware, ...] = ()
    cpu_runs: bool | None = None

    def has(self, path: str) -> bool:
        """Whether something exists at that path."""
        return path in self.files

    def is_directory(self, path: str) -> bool:
        """Whether the path is a directory."""
        fact = self.files.get(path)
        return fact is not None and fact.kind == "directory"
