"""Files of /proc and /sys, and where in them this process's cgroups are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


def read_text(path: Path, limit_bytes: int = -1) -> str:
    """What a file says (its first bytes), or "" where it is not there, or may not be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return (file.read(limit_bytes) or b"").decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Cgroup:
    """Where a controller's files for this process are: `dirs` from its own group up to the mount."""

    version: int
    dirs: tuple[PurePosixPath, ...]


def parse_cgroup(controller: str, cgroup_text: str, mountinfo_text: str) -> Cgroup | None:
    """Where `controller` ("memory", "cpu") limits this process, from /proc/self/{cgroup,mountinfo}.

    Limits nest, so every directory from the process's own group up to the mount counts. A container
    often sees only its own group: then the mount's root is that group, and the path is cut by it.
    """
    path_v2 = None
    for line in cgroup_text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return _mounted(1, controller, path, mountinfo_text)
        if number == "0" and not controllers:
            path_v2 = path
    return None if path_v2 is None else _mounted(2, controller, path_v2, mountinfo_text)


def _mounted(version: int, controller: str, path: str, mountinfo_text: str) -> Cgroup | None:
    for line in mountinfo_text.splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.partition(" ")
        wanted = kind == "cgroup2" if version == 2 else kind == "cgroup" and _has(options, controller)
        if wanted:
            root, mount = fields.split()[3:5]
            return Cgroup(version, _levels(PurePosixPath(path), PurePosixPath(root), PurePosixPath(mount)))
    return None


def _has(options: str, controller: str) -> bool:
    """Whether a v1 mount's "source options" names the controller ("cgroup rw,cpu,cpuacct")."""
    return controller in options.rpartition(" ")[2].split(",")


def _levels(path: PurePosixPath, root: PurePosixPath, mount: PurePosixPath) -> tuple[PurePosixPath, ...]:
    inside = path.is_relative_to(root) and ".." not in path.parts
    here = mount / path.relative_to(root) if inside else mount
    return (here, *(parent for parent in here.parents if parent.is_relative_to(mount)))
