"""Which file systems lie on another machine, where the locks of SQLite prove nothing. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_NETWORK = frozenset(
    {
        "9p",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fhgfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "ocfs2",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "vmhgfs",
        "webdav",
    }
)
_FUSE = frozenset(
    {
        "ceph",
        "ceph-fuse",
        "curlftpfs",
        "davfs",
        "davfs2",
        "gcsfuse",
        "geesefs",
        "glusterfs",
        "goofys",
        "grpcfuse",
        "juicefs",
        "mount-s3",
        "osxfs",
        "rclone",
        "s3fs",
        "s3ql",
        "seaweedfs",
        "sshfs",
        "vmhgfs-fuse",
    }
)
"""What is behind FUSE on another machine; an encrypted folder or a USB disk behind it is not."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table of mounts."""

    point: str
    kind: str


def network_file_system(folder: str, mounts: Iterable[Mount]) -> str | None:
    """The type of the network file system that an absolute folder lies on; None for a local one.

    Of two mounts at one point the later hides the earlier. What is not known counts as local.
    """
    path = PurePosixPath(folder)
    over = [one for one in mounts if path.is_relative_to(one.point)]
    # Of equals, `max` would take the first.
    nearest = max(reversed(over), key=lambda one: len(PurePosixPath(one.point).parts), default=None)
    return nearest.kind if nearest and _is_network(nearest.kind.lower()) else None


def _is_network(kind: str) -> bool:
    name = kind.removeprefix("fuse.")
    # mount.fuse lets a program call itself what it likes: `fuse.sshfs`, `fuse.rclone`, `s3fs`.
    return kind in _NETWORK or name in _FUSE
