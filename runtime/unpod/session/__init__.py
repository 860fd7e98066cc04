"""Sessions: the developer's verbs and hooks over a fold of the log."""
