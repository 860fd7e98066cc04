"""What the log says of a call, and what this bridge writes into it."""
