"""Pure functions from records to points, rows and spans: no clock, no chance, no I/O."""
