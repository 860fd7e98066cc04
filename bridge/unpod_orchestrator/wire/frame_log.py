"""The frames of a socket as they went over it, for whoever looks at them later. Pure."""

from collections import deque
from typing import Literal

import msgspec

from unpod_orchestrator.wire.call_frames import RawFrame


class LoggedFrame(msgspec.Struct, frozen=True):
    """One frame as it went over the socket; `in` comes from the client, `t_s` counts from when its log was begun."""

    direction: Literal["in", "out"]
    t_s: float
    event: str
    raw: RawFrame


class FrameLog:
    """A call's frames, the oldest forgotten first beyond `max_frames` or `max_bytes`."""

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sizes: deque[int] = deque()
        self.frames: list[LoggedFrame] = []
        self.forgotten = 0

    def add(self, frame: LoggedFrame, size: int) -> None:
        """Keeps a frame of `size` bytes."""
        self.frames.append(frame)
        self._sizes.append(size)
        self._bytes += size
        while len(self.frames) > self._max_frames or (self._bytes > self._max_bytes and len(self.frames) > 1):
            self.frames.pop(0)
            self._bytes -= self._sizes.popleft()
            self.forgotten += 1
