"""One connection to NATS: how it is found, opened, read and kept."""
