"""Named moments at which something is due. Pure: whoever asks says what time it is."""


class Deadlines:
    """A handful of deadlines by name; setting one again moves it."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def set(self, name: str, at: float) -> None:
        """`name` is due at `at`."""
        self._due[name] = at

    def clear(self, name: str) -> None:
        """`name` is not due any more, if it was."""
        self._due.pop(name, None)

    def clear_all(self) -> None:
        """Nothing is due any more."""
        self._due.clear()

    def next(self) -> float | None:
        """When the first is due."""
        return min(self._due.values(), default=None)

    def due(self, now: float) -> list[str]:
        """What is due by `now`, in order of time; each is told once."""
        names = sorted((name for name, at in self._due.items() if at <= now), key=self._due.__getitem__)
        for name in names:
            del self._due[name]
        return names
