"""Pure functions from records to points: no clock, no chance, no I/O."""
