"""Jobs, from their assignment to their end."""
