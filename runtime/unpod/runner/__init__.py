"""The runner: a process that takes calls and runs the entrypoint for each."""
