"""The shell of one call: sockets, log and clock around its protocol."""
