"""An event-sourced runtime for voice agents: the call lives in a log, so the process that talks may die."""
