"""The streams, as data: what they must be, creating them where they are missing, telling where they differ."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from unpod.errors import ConfigurationError
from unpod.jetstream.connection.options import PermissionDenied
from unpod.jetstream.streams.api import IN_USE, NOT_FOUND, ApiError, call

if TYPE_CHECKING:
    from unpod.jetstream.connection.connection import Nats

MIB: Final = 1024 * 1024
_PREFIX: Final = re.compile(r"(?!.*--)[a-z0-9_-]+(\.[a-z0-9_-]+)*\Z")
_SECOND_NS: Final = 1_000_000_000
_DAY_S: Final = 86_400
DEFAULT_BYTES: Final = 8 * 1024 * MIB
_NO_ROOM: Final = frozenset({10047, 10023, 10028, 10002})  # the server's storage, its resources, memory, the account's
_NO_PEERS: Final = frozenset({10005, 10074})  # too few nodes, no cluster at all


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream must be; times in seconds, sizes in bytes."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_msg_size: int
    max_age_s: float
    dedup_window_s: float = 300.0
    replicas: int = 1
    per_subject: int = -1
    """How many records a subject keeps; -1 for all."""
    expires: bool = False
    """Whether a record may say how long it is kept."""

    def config(self) -> dict[str, Any]:
        """Return JetStream's form of it."""
        kept = self.per_subject > 0
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "new",  # a full log refuses; it never drops the start of a call that is in progress
            "allow_direct": True,  # any replica answers reads
            # Erasing an ended session is an operator's right, which users' permissions give and not the stream: once
            # denied here, it can never be allowed again.
            "deny_delete": False,
            "deny_purge": False,
            "allow_rollup_hdrs": kept,  # what `nats kv` expects of a bucket
            "allow_msg_ttl": self.expires,  # what is left of a key that was deleted goes by itself
            "max_msgs_per_subject": self.per_subject,
            "max_bytes": self.max_bytes,
            "max_msg_size": self.max_msg_size,
            "max_age": int(self.max_age_s * _SECOND_NS),
            "duplicate_window": int(self.dedup_window_s * _SECOND_NS),
            "num_replicas": self.replicas,
        }


@dataclass(frozen=True, slots=True)
class Topology:
    """The streams of one subject prefix: the calls, and the bridges' job records (a KV bucket runners may not read)."""

    calls: StreamSpec
    jobs: StreamSpec

    @property
    def bucket(self) -> str:
        """The KV bucket's name."""
        return self.jobs.name.removeprefix("KV_")


def topology(
    prefix: str = "unpod",
    *,
    replicas: int = 1,
    max_bytes: int = DEFAULT_BYTES,
    max_msg_size: int = 1 * MIB,
    max_age_days: float = 7.0,
) -> Topology:
    """Return the streams of a subject prefix; another prefix has other names, so that both can share a server.

    Raises:
        ConfigurationError: the prefix cannot stand in a subject and in a stream's name.
    """
    if not _PREFIX.match(prefix):
        raise ConfigurationError(
            f"UNPOD_SUBJECT_PREFIX is {prefix!r}: give small letters, digits, '_' and '-', with dots between tokens"
        )
    # A dot cannot stand in a stream's name, and "--" cannot stand in a prefix: no two prefixes share a name.
    stem = prefix.upper().replace(".", "--")
    calls = StreamSpec(
        f"{stem}_CALLS", (f"{prefix}.call.>",), max_bytes, max_msg_size, max_age_days * _DAY_S, replicas=replicas
    )
    bucket = f"{stem}_JOBS"
    jobs = StreamSpec(
        f"KV_{bucket}",
        (f"$KV.{bucket}.>",),
        max(max_bytes // 16, 8 * MIB),
        min(max_msg_size, MIB // 4),
        max_age_days * _DAY_S,
        replicas=replicas,
        per_subject=1,
        expires=True,
    )
    return Topology(calls, jobs)


def checkpoints(calls: StreamSpec) -> StreamSpec:
    """Return the KV bucket in which the consumers of a stream of calls keep how far they came, and what they parked."""
    bucket = f"{calls.name.removesuffix('_CALLS')}_CONSUMERS"
    return StreamSpec(
        f"KV_{bucket}",
        (f"$KV.{bucket}.>",),
        64 * MIB,
        calls.max_msg_size,
        max_age_s=0,  # a position must not expire
        replicas=calls.replicas,
        per_subject=1,
        expires=True,
    )


def embedded_topology(prefix: str = "unpod") -> Topology:
    """Return the streams for the embedded server: bounded so that a restart after a kill stays well under a second."""
    return topology(prefix, max_bytes=512 * MIB)


async def info(nats: Nats, name: str) -> dict[str, Any] | None:
    """Return what the server says of a stream (`config`, `state`, `cluster`), or None where there is no such stream.

    Raises:
        LogUnavailable: no answer.
        PermissionDenied: the user may not ask.
    """
    try:
        return await call(nats, f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.code == NOT_FOUND:
            return None
        raise


def lagging(found: dict[str, Any]) -> dict[str, str]:
    """Return the nodes, by name, on which a stream is not up to date, and how each stands, given its `info`."""
    replicas = (found.get("cluster") or {}).get("replicas") or []
    return {
        str(each.get("name")): "offline" if each.get("offline") else f"{each.get('lag', 0)} records behind"
        for each in replicas
        if each.get("offline") or not each.get("current")
    }


async def ensure(nats: Nats, *specs: StreamSpec) -> None:
    """Create the streams that are missing; what is there is never changed.

    Raises:
        ConfigurationError: the server will not have it (no room, too few nodes for the replicas, overlapping subjects).
        LogUnavailable: no answer.
    """
    for spec in specs:
        if await info(nats, spec.name) is None:
            await _create(nats, spec)


async def _create(nats: Nats, spec: StreamSpec) -> None:
    try:
        await call(nats, f"STREAM.CREATE.{spec.name}", spec.config(), timeout_s=10.0)
    except ApiError as error:
        if error.code != IN_USE:  # else somebody else has created it in between
            raise ConfigurationError(
                f"the stream {spec.name} cannot be created: {error}{_remedy(spec, error.code)}"
            ) from error
    except PermissionDenied as error:
        raise ConfigurationError(
            f"the stream {spec.name} is missing, and this NATS user may not create it: "
            "run `unpod streams init` as a user who may (the role `setup`)"
        ) from error


def _remedy(spec: StreamSpec, code: int) -> str:
    if code in _NO_ROOM:
        return (
            f": {spec.max_bytes // MIB} MiB on each node are asked for; set UNPOD_STREAM_SIZE to less (say 512MiB), "
            "run `unpod streams init --size 512MiB`, or raise max_file_store in the server's jetstream block"
        )
    if code in _NO_PEERS:
        return (
            f": {spec.replicas} replicas need a cluster of as many nodes; start them, set UNPOD_STREAM_REPLICAS=1, or "
            "run `unpod streams init --replicas 1`"
        )
    return ""


def with_limits_of(spec: StreamSpec, found: dict[str, Any]) -> StreamSpec:
    """Return `spec` with the bounds, replicas and expiry that the server's stream really has; a missing bound is 0."""
    config = found["config"]
    bounds = {name: max(config[name], 0) for name in ("max_bytes", "max_msg_size")}
    return replace(
        spec, **bounds, replicas=config.get("num_replicas", 1), expires=bool(config.get("allow_msg_ttl", False))
    )
