"""NATS and JetStream: the only package that imports `nats`."""

from __future__ import annotations

import unpod.jetstream._lean  # noqa: F401 - before whoever imports nats
from unpod.jetstream.connection.connection import Nats, connect
from unpod.jetstream.connection.credentials import Context, Credentials, load_context, parse_urls
from unpod.jetstream.connection.environment import nats_options
from unpod.jetstream.connection.options import NatsOptions, PermissionDenied
from unpod.jetstream.log.clock import LogClock
from unpod.jetstream.log.event_log import JetStreamLog, open_log
from unpod.jetstream.log.kv import Change, Entry, JobStore, open_jobs
from unpod.jetstream.log.pull import Delivery, PullConsumer, PullSpec
from unpod.jetstream.streams.drift import Difference, differences
from unpod.jetstream.streams.sizing import StreamSettings, parse_size, readable_size, stream_settings
from unpod.jetstream.streams.topology import StreamSpec, Topology, checkpoints, embedded_topology, ensure, topology

__all__ = [
    "Change",
    "Context",
    "Credentials",
    "Delivery",
    "Difference",
    "Entry",
    "JetStreamLog",
    "JobStore",
    "LogClock",
    "Nats",
    "NatsOptions",
    "PermissionDenied",
    "PullConsumer",
    "PullSpec",
    "StreamSettings",
    "StreamSpec",
    "Topology",
    "checkpoints",
    "connect",
    "differences",
    "embedded_topology",
    "ensure",
    "load_context",
    "nats_options",
    "open_jobs",
    "open_log",
    "parse_size",
    "parse_urls",
    "readable_size",
    "stream_settings",
    "topology",
]
