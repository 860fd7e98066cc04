"""Going through the past: records in order, what has been done, and where to go on."""
