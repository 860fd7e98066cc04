"""The stream of calls: written in order, read back, followed."""
