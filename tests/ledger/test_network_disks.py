"""A ledger in a file lies on a disk of this machine, or is refused."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from comfyline.errors import InputInvalid
from comfyline.ledger.database import network_file_system
from comfyline.ledger.ledger import Ledger

ROOT = ("/", "ext4")


def test_a_folder_of_another_machine_is_told_from_one_of_this():
    for kind in ("nfs4", "cifs", "9p", "lustre", "NFS", "fuse.sshfs", "fuse.s3fs"):
        assert network_file_system("/srv/team/x", [ROOT, ("/srv", kind)]) == kind
    for kind in ("xfs", "apfs", "tmpfs", "overlay", "fuseblk", "fuse.gocryptfs"):
        assert network_file_system("/srv/team/x", [("/", "nfs"), ("/srv", kind)]) is None


@pytest.mark.parametrize(
    ("folder", "mounts", "kind"),
    [
        ("/srv/disk/x", [ROOT, ("/srv", "nfs"), ("/srv/disk", "xfs")], None),
        ("/srv/disk/x", [("/srv/disk", "xfs"), ("/srv", "nfs"), ROOT], None),
        ("/srvice", [ROOT, ("/srv", "nfs")], None),
        ("/srv", [ROOT, ("/srv", "autofs"), ("/srv", "nfs4")], "nfs4"),
        ("/srv", [ROOT, ("/srv", "nfs4"), ("/srv", "ext4")], None),
        ("/anywhere", [], None),
    ],
)
def test_the_nearest_and_the_last_mount_counts(
    folder: str, mounts: list[tuple[str, str]], kind: str | None
):
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
