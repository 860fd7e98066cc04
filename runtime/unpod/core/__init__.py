"""The pure core: what stands in the log, what it means, and what happens next.

Nothing here reads a clock, mints an id, does I/O or logs: time and ids come in as arguments, decisions go out as
values.
"""
