"""A ledger in a file lies on a disk of this machine, or is refused."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from comfyline.errors import InputInvalid
from comfyline.ledger.database import Mount, network_file_system
from comfyline.ledger.ledger import Ledger

ROOT = Mount("/", "ext4")


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "ceph",
        "lustre",
        "NFS",
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.s3fs",
    ],
)
def test_a_folder_of_another_machine_is_one(kind: str):
    assert network_file_system("/srv/team/x", [ROOT, Mount("/srv", kind)]) == kind


@pytest.mark.parametrize(
    "kind",
    [
        "ext4",
        "xfs",
        "btrfs",
        "apfs",
        "tmpfs",
        "overlay",
        "zfs",
        "fuseblk",
        "fuse.gocryptfs",
        "fuse.mergerfs",
    ],
)
def test_a_folder_of_this_machine_is_none(kind: str):
    assert network_file_system("/srv/team/x", [Mount("/", "nfs"), Mount("/srv", kind)]) is None


@pytest.mark.parametrize(
    ("folder", "mounts", "kind"),
    [
        ("/srv/disk/x", [ROOT, Mount("/srv", "nfs"), Mount("/srv/disk", "xfs")], None),
        ("/srv/disk/x", [Mount("/srv/disk", "xfs"), Mount("/srv", "nfs"), ROOT], None),
        ("/srvice", [ROOT, Mount("/srv", "nfs")], None),
        ("/srv", [ROOT, Mount("/srv", "autofs"), Mount("/srv", "nfs4")], "nfs4"),
        ("/srv", [ROOT, Mount("/srv", "nfs4"), Mount("/srv", "ext4")], None),
        ("/mnt/with space/x", [ROOT, Mount("/mnt/with space", "cifs")], "cifs"),
        ("/anywhere", [], None),
    ],
)
def test_the_nearest_and_the_last_mount_counts(folder: str, mounts: list[Mount], kind: str | None):
    assert network_file_system(folder, mounts) == kind


def test_such_a_ledger_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    share, link = tmp_path / "share", tmp_path / "link"
    share.mkdir()
    link.symlink_to(share)
    partition = namedtuple("partition", ["mountpoint", "fstype"])
    table = [partition("/", "ext4"), partition(str(share), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: table)
    with pytest.raises(InputInvalid, match=r"\(nfs4\).*COMFYLINE_LEDGER_URL to a PostgreSQL"):
        Ledger(f"sqlite:///{link}/deeper/ledger.sqlite3", "here:1")
    assert list(share.iterdir()) == []
    Ledger(f"sqlite:///{tmp_path}/ledger.sqlite3", "here:1").close()
