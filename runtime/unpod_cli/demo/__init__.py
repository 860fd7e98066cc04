"""`unpod demo`: a whole system on this machine, and six calls at once."""
