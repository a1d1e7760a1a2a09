"""When the credentials that sign end: no presigned URL outlives them, whatever it says itself."""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError

_SECONDS_BETWEEN = 60.0
"""Between two renewals; each is a call to whoever gives the credentials."""


class Expiry:
    """The end of temporary credentials, put off where that can be done.

    A role or an SSO login renews itself, but by botocore's rules only in its last 15 minutes.
    """

    def __init__(self) -> None:
        self._tried_at = -math.inf

    async def of(self, credentials: Any, needed: float) -> datetime | None:
        """When credentials end, renewed first where that is sooner than in `needed` seconds.

        None for keys that last, and for temporary ones that do not say how long.
        """
        if not isinstance(credentials, RefreshableCredentials):
            return None
        # botocore tells it nowhere else.
        ends: datetime | None = credentials._expiry_time  # noqa: SLF001
        is_short = ends is None or ends < datetime.now(UTC) + timedelta(seconds=needed)
        # What a renewal has not made long enough, the next one hardly will: a person may.
        if is_short and time.monotonic() - self._tried_at > _SECONDS_BETWEEN:
            self._tried_at = time.monotonic()
            await _renew(credentials, needed)
            ends = credentials._expiry_time  # noqa: SLF001
        return ends


async def _renew(credentials: Any, needed: float) -> None:
    usual = credentials._advisory_refresh_timeout  # noqa: SLF001
    credentials._advisory_refresh_timeout = max(usual, needed)  # noqa: SLF001
    try:
        await credentials.get_frozen_credentials()
    except (BotoCoreError, ClientError, OSError, RuntimeError):
        pass  # They end when they end; whoever uses them after that is told.
    finally:
        credentials._advisory_refresh_timeout = usual  # noqa: SLF001
