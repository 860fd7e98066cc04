"""The calls that the orchestrator knows: those that live, and the last of those that have ended."""

from collections import OrderedDict
from collections.abc import Iterator

from unpod_orchestrator.calls.call import LocalCall


class CallIndex:
    """Calls by session, by job, and by the key in their bridge URL."""

    def __init__(self, keep_ended: int) -> None:
        self._keep_ended = keep_ended
        self._by_session: dict[str, LocalCall] = {}
        self._by_job: dict[str, LocalCall] = {}
        self._by_key: dict[str, LocalCall] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[LocalCall]:
        return iter(list(self._by_session.values()))

    def add(self, call: LocalCall) -> None:
        """Adds a call; `ValueError` for a session that is there."""
        if call.session_id in self._by_session:
            raise ValueError("there is a call with this session_id")
        self._by_session[call.session_id] = call
        self._by_job[call.job_id] = call
        self._by_key[call.bridge_key] = call

    def ended(self, call: LocalCall) -> None:
        """The call is over; the one that ended first is forgotten when too many are kept."""
        self._ended[call.session_id] = None
        if len(self._ended) > self._keep_ended:
            session_id, _ = self._ended.popitem(last=False)
            forgotten = self._by_session.pop(session_id)
            del self._by_job[forgotten.job_id]
            del self._by_key[forgotten.bridge_key]

    def session(self, session_id: str) -> LocalCall | None:
        """The call of a session."""
        return self._by_session.get(session_id)

    def job(self, job_id: str) -> LocalCall | None:
        """The call of a job."""
        return self._by_job.get(job_id)

    def key(self, key: str) -> LocalCall | None:
        """The call that a bridge URL's key belongs to."""
        return self._by_key.get(key)
