"""SFTP as fsspec speaks it, with the one thing changed that must be: only known servers count."""

from typing import Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

_CONNECT_SECONDS = 20.0
_SILENT_SECONDS = 60.0
_POLICIES = {
    "reject": paramiko.RejectPolicy,
    "warning": paramiko.WarningPolicy,
    "auto_add": paramiko.AutoAddPolicy,
}


class KnownHostsSftp(SFTPFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """Connects to servers that stand in `~/.ssh/known_hosts`; fsspec's own would trust anybody.

    `host_key_policy` is fsspec's option, with another default: `reject`. A server that falls
    silent is an error after a minute.
    """

    def __init__(self, host: str, **options: Any) -> None:
        self._policy = _POLICIES[options.pop("host_key_policy", "reject")]
        options.setdefault("timeout", _CONNECT_SECONDS)
        super().__init__(host, **options)

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()

    def put_new(self, part: str, path: str) -> None:
        """Renames a file unless there is one of that name. Raises `FileExistsError`."""
        try:
            # This rename is the older one, which refuses to replace.
            self.ftp.rename(part, path)
        except OSError:
            if self.exists(path):
                raise FileExistsError(path) from None
            raise

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(self._policy())
        try:
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()
        except BaseException:
            self.client.close()
            raise
        self.ftp.get_channel().settimeout(_SILENT_SECONDS)
