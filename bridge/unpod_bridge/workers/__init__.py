"""What the orchestrator knows of this bridge: its workers and their control sockets."""
