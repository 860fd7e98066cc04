"""The streams themselves: what they must be, and where they differ."""
