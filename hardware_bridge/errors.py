"""What can go wrong on the servo bus, as exceptions that say what, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from hardware_bridge.protocol import Status, error_names


class Reply(NamedTuple):
    """A checked answer. ``error`` holds what the servo says of its health: never ignore it."""

    id: int
    protocol: int
    error: int
    data: bytes
    sent_at: float  # monotonic (s), when the instruction was written
    received_at: float  # and when the last byte had come

    @property
    def errors(self) -> tuple[str, ...]:
        """The error byte in words."""
        return error_names(self.protocol, self.error)


class LinkError(Exception):
    """Something failed on the bus: what, where, and what to do about it."""

    kind: ClassVar[str] = "error"

    def __init__(self, what: str, where: str, remedy: str) -> None:
        super().__init__(f"{where}: {what}. {remedy}")
        self.what = what
        self.where = where
        self.remedy = remedy


class PortError(LinkError):
    """The port itself cannot be used."""

    kind = "port"


class PortMissing(PortError):  # noqa: N818 - named for what happened
    """It could not be opened."""

    kind = "port missing"


class PortBusy(PortError):  # noqa: N818
    """Another program holds it."""

    kind = "port busy"


class PortGone(PortError):  # noqa: N818
    """It vanished while open, or was closed. The link is of no more use: open a new one."""

    kind = "port gone"


class WriteBlocked(PortGone):
    """The line does not take bytes any more."""

    kind = "write blocked"


class ReplyError(LinkError):
    """A servo did not answer as it must. ``ids``: whom it concerns; ``raw``: what came."""

    kind = "reply"

    def __init__(
        self, what: str, where: str, remedy: str, ids: Sequence[int] = (), raw: bytes = b"", kind: str = ""
    ) -> None:
        super().__init__(what, where, remedy)
        self.ids = tuple(ids)
        self.raw = raw
        self.reason = kind or self.kind


class NoReply(ReplyError):  # noqa: N818
    """Nothing came before the deadline. ``partial``: what the servos before it answered, by id."""

    kind = "timeout"

    partial: Mapping[int, Reply] = {}


class BadReply(ReplyError):  # noqa: N818
    """What came is damaged or not what was asked; ``reason``: checksum, length, truncated, wrong id, ..."""

    kind = "bad reply"


class Refused(ReplyError):  # noqa: N818
    """The servo understood and declined; ``error`` is its error byte, ``names`` says it in words."""

    kind = "refused"

    def __init__(self, what: str, where: str, remedy: str, status: Status) -> None:
        super().__init__(what, where, remedy, (status.id,), status.raw)
        self.error = status.error
        self.names = error_names(status.protocol, status.error)
