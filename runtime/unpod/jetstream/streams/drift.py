"""How a stream differs from what it must be, and what sets it right. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from unpod.jetstream.streams.topology import StreamSpec, info

if TYPE_CHECKING:
    from unpod.jetstream.connection.connection import Nats
    from unpod.jetstream.streams.sizing import StreamSettings

_MUST_BE: Final = (
    "subjects",
    "storage",
    "retention",
    "discard",
    "allow_direct",
    "deny_delete",
    "deny_purge",
    "allow_msg_ttl",
    "max_msgs_per_subject",
)
_FLAGS: Final = {
    "subjects": "--subjects",
    "discard": "--discard",
    "allow_direct": "--allow-direct",
    "allow_msg_ttl": "--allow-msg-ttl",
    "max_msgs_per_subject": "--max-msgs-per-subject",
    "max_bytes": "--max-bytes",
    "max_age": "--max-age",
    "max_msgs": "--max-msgs",
    "num_replicas": "--replicas",
    "duplicate_window": "--dupe-window",
}
"""The flags of `nats stream edit` for the settings that can be changed in place."""
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a stream is not what it must be; `fix` is a command, or a sentence."""

    stream: str
    setting: str
    found: object
    expected: object
    fix: str

    def __str__(self) -> str:
        if self.setting == "stream":
            return f"{self.stream}: missing"
        return f"{self.stream}: {self.setting} is {self.found!r}, expected {self.expected!r}"


async def differences(nats: Nats, settings: StreamSettings, *specs: StreamSpec) -> list[Difference]:
    """Return how the streams differ from what they must be; [] when they do not.

    Bounds and replicas are whatever the operator has chosen, as long as there are bounds; what `settings` names counts.

    Raises:
        LogUnavailable: no answer.
        PermissionDenied: the user may not ask.
    """
    lines: list[Difference] = []
    for spec in specs:
        found = await info(nats, spec.name)
        if found is None:
            lines.append(Difference(spec.name, "stream", None, spec.name, "unpod streams init"))
        else:
            lines += _of(spec, settings, found["config"])
    return lines


def _of(spec: StreamSpec, settings: StreamSettings, found: dict[str, Any]) -> list[Difference]:
    wanted = spec.config()
    expected = {key: wanted[key] for key in _MUST_BE if found.get(key, False) != wanted[key]}
    if found.get("max_bytes", -1) <= 0 or (settings.max_bytes and found["max_bytes"] != wanted["max_bytes"]):
        expected["max_bytes"] = wanted["max_bytes"]
    if settings.replicas and found.get("num_replicas", 1) != settings.replicas:
        expected["num_replicas"] = settings.replicas
    if (found.get("max_age", 0) > 0) != (wanted["max_age"] > 0):  # some age, or none where nothing may expire
        expected["max_age"] = wanted["max_age"]
    if found.get("duplicate_window", 0) < wanted["duplicate_window"]:
        expected["duplicate_window"] = wanted["duplicate_window"]
    if found.get("max_msgs", -1) > 0:
        expected["max_msgs"] = -1
    if found.get("sealed"):
        expected["sealed"] = False
    return [
        Difference(spec.name, key, found.get(key, False), value, _fix(spec.name, key, value))
        for key, value in expected.items()
    ]


def _fix(stream: str, key: str, value: object) -> str:
    flag = _FLAGS.get(key)
    if key == "deny_delete":
        return f"calls go on as ever, but no record can ever be erased; the setting {_anew(stream)}"
    if flag is None:
        return f"the setting {_anew(stream)}"
    if value is True:
        return f"nats stream edit {stream} {flag}"
    shown = ",".join(value) if isinstance(value, list) else value
    if key in ("max_age", "duplicate_window") and isinstance(value, int):
        shown = f"{value // _SECOND_NS}s"
    return f"nats stream edit {stream} {flag}={shown}"


def _anew(stream: str) -> str:
    return (
        f"cannot be changed in place: once no call is in progress, `nats stream backup {stream} DIR`, "
        f"`nats stream rm {stream}`, then `unpod streams init`"
    )
