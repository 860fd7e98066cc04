"""Calls that have been placed: the shell around each speech worker, who watches it, and where it is found."""
