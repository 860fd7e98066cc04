"""The bridge between the orchestrator's WebSockets and the log."""
