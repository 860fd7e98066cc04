"""What a call's state machine asks its shell to do, in order. Data, so that tests can read it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unpod.core.commands import AnyCommand
from unpod.core.events import CallerEvent, Receipt
from unpod.core.live import Again
from unpod_bridge.wire.call_frames import Frame


class Owned(Struct, frozen=True):
    """A record of the owner as the bridge needs it: its command, or None for a record that only counts by its index.

    `refusal` is why a command cannot be read; `settled` is up to which of our records all handlers have returned.
    A `control` is no record of the owner, but asked for from outside, and not done after `latest`.
    """

    epoch: int
    index: int
    id: str = ""
    command: AnyCommand | None = None
    refusal: str = ""
    settled: int = 0
    control: bool = False
    latest: float = 0.0


class Dial(Struct, frozen=True):
    """Open a socket to the worker."""


class Write(Struct, frozen=True):
    """Send one frame."""

    data: bytes


class Ping(Struct, frozen=True):
    """Ask for a pong."""

    token: bytes


class Close(Struct, frozen=True):
    """Close the socket, or give up the dial that is under way."""

    code: int


class Leave(Struct, frozen=True):
    """Close the socket, and hear what is on its way until the worker has closed it, too."""

    code: int


class Left(Struct, frozen=True):
    """The link is given up, and everything about it was put before this: another bridge goes on."""


class Store(Struct, frozen=True):
    """Store a fact; where it is a frame, `data` is the frame as it came, and becomes the payload.

    `withheld`: the recording is paused, so the texts of it go to the live subject and not into the log. With `notify`,
    `CallProtocol.stored` wants to hear once the log has acknowledged it.
    """

    channel: Literal["evt", "ack"]
    body: CallerEvent | Receipt
    data: bytes = b""
    withheld: bool = False
    notify: str = ""
    cause: str = ""


class AskAgain(Struct, frozen=True):
    """Ask the owner for pieces of a reply that did not arrive."""

    again: Again


class Fetch(Struct, frozen=True):
    """Look in the log for the owner's records `first` to `last`, and hand them in."""

    first: int
    last: int


class Begin(Struct, frozen=True):
    """The call is up for the first time: take the line, store both frames, appoint the owner, then its `begin`."""

    session_id: str
    hello: Frame
    started: Frame


class Failed(Struct, frozen=True):
    """The call never came up, and nobody tries any more; `cancelled` where it was called off."""

    reason: str
    cancelled: bool = False


class Over(Struct, frozen=True):
    """The call is over; everything that had to be stored was put before this."""

    reason: str


Output = Dial | Write | Ping | Close | Leave | Left | Store | AskAgain | Fetch | Begin | Failed | Over
