"""The frames of both sockets, as the wire has them: typed on the way in, well-formed on the way out. Pure."""
