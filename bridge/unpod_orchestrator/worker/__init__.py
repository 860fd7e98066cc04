"""The speech worker of one call, as a state machine: pairing, handshake, talk, and its end. Pure."""
