"""What is derived from the log: each consumer reads it from outside, and neither runners nor bridges know of any."""
