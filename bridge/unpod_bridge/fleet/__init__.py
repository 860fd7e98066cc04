"""Who is there: the runners, their health, the other bridges."""
