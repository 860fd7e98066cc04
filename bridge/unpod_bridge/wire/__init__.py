"""Frames and URLs: bytes to values and back. Pure."""
