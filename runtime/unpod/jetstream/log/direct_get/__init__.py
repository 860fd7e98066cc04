"""Reading back by batched direct get, which needs no consumer."""
