"""The two HTTP interfaces: REST as the wire has it, and the development API."""
