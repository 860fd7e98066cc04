"""The `unpod` command: the front door to everything else."""
