"""WebSockets: the only importer of `websockets`."""
