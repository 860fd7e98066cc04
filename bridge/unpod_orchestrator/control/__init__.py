"""Workers: their control sockets, who is registered, and who gets a call."""
