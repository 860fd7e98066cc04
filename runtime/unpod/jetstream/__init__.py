"""NATS and JetStream: the only package that imports `nats`."""

from __future__ import annotations

import unpod.jetstream._lean  # noqa: F401 - before whoever imports nats
from unpod.jetstream.children import ChildProcess, spawn_child
from unpod.jetstream.clock import LogClock
from unpod.jetstream.connection import Nats, connect
from unpod.jetstream.credentials import Context, Credentials, load_context, parse_urls
from unpod.jetstream.differences import Difference, differences
from unpod.jetstream.embedded import EmbeddedOptions, EmbeddedServer
from unpod.jetstream.environment import nats_options
from unpod.jetstream.event_log import JetStreamLog, open_log
from unpod.jetstream.jobs import Change, Entry, JobStore, open_jobs
from unpod.jetstream.options import NatsOptions, PermissionDenied
from unpod.jetstream.pull import Delivery, PullConsumer, PullSpec
from unpod.jetstream.sizing import StreamSettings, parse_size, readable_size, stream_settings
from unpod.jetstream.topology import StreamSpec, Topology, checkpoints, embedded_topology, ensure, topology

__all__ = [
    "Change",
    "ChildProcess",
    "Context",
    "Credentials",
    "Delivery",
    "Difference",
    "EmbeddedOptions",
    "EmbeddedServer",
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
    "spawn_child",
    "stream_settings",
    "topology",
]
