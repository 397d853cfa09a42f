"""What the runner says to people when their request cannot be met."""

from __future__ import annotations

import errno

#: Exit codes of the commands.
OK, JOB_FAILED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RequestError(ValueError):
    """The request is wrong or cannot be met; the message says what, where, and what to do next."""


def explain_os_error(error: OSError, doing: str) -> str:
    """One sentence about a failed file operation.

    Args:
        error: what the operating system said.
        doing: e.g. ``"writing runs/a/summary.csv"``.
    """
    if error.errno in DISK_FULL:
        return (
            f"{doing}: the disk is full ({error.strerror}); free some space, then give the same command again"
        )
    return f"{doing}: {error.strerror or error}"
