"""Calls from a script: what the caller does, and what is expected of the agent."""
