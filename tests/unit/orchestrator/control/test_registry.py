"""Which worker gets the next job."""

from unpod_orchestrator.control.registry import RegisteredWorker, Registry
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.control_frames import RegisterFrame, WorkerCapabilities


class Socket:
    def send(self, frame: RawFrame) -> None:
        raise NotImplementedError


def register(
    registry: Registry, name: str, room: int = 2, *, socket: Socket | None = None, pool: str = "desk"
) -> RegisteredWorker:
    capabilities = WorkerCapabilities([], room, "desk", "brain", "dial_out")
    return registry.register(RegisterFrame(name, pool, capabilities), socket or Socket())


def test_the_worker_with_most_room_is_asked() -> None:
    registry = Registry()
    register(registry, "a", 2)
    b = register(registry, "b", 3)
    assert registry.pick("desk", (), even_if_full=False) is b
    registry.give("j1", b)
    registry.give("j2", b)
    assert registry.pick("desk", (), even_if_full=False) is registry.get("a")


def test_equals_take_turns() -> None:
    registry = Registry()
    for name in "abc":
        register(registry, name, 10)
    picked = []
    for number in range(6):
        worker = registry.pick("desk", (), even_if_full=False)
        assert worker is not None
        picked.append(worker.worker_id)
        registry.give(f"j{number}", worker)
    assert picked == ["a", "b", "c", "a", "b", "c"]


def test_one_that_was_not_tried_comes_first() -> None:
    registry = Registry()
    register(registry, "a", 1)
    register(registry, "b", 9)
    worker = registry.pick("desk", {"b"}, even_if_full=False)
    assert worker is registry.get("a")
    assert registry.pick("desk", {"a", "b"}, even_if_full=False) is registry.get("b")


def test_full_workers_are_asked_only_on_demand() -> None:
    registry = Registry()
    full = register(registry, "a", 0)
    assert registry.pick("desk", (), even_if_full=False) is None
    assert registry.pick("desk", (), even_if_full=True) is full


def test_pools_are_apart() -> None:
    registry = Registry()
    register(registry, "a", pool="desk@dev")
    assert registry.pick("desk", (), even_if_full=False) is None
    assert registry.pick("desk@dev", (), even_if_full=False) is not None


def test_a_worker_that_registers_again_keeps_its_jobs() -> None:
    registry = Registry()
    registry.give("j", register(registry, "a", 2))
    again = register(registry, "a", 5)
    assert again.jobs == {"j"}
    assert again.free == 4
    registry.release("j")
    registry.release("j")
    assert again.free == 5


def test_the_old_socket_of_a_worker_that_came_back_takes_nothing_with_it() -> None:
    registry = Registry()
    old, new = Socket(), Socket()
    register(registry, "a", socket=old)
    register(registry, "a", socket=new)
    registry.lost(old)
    assert registry.get("a") is not None
    registry.lost(new)
    assert registry.get("a") is None


def test_a_job_moves_from_one_worker_to_the_other() -> None:
    registry = Registry()
    a, b = register(registry, "a"), register(registry, "b")
    registry.give("j", a)
    registry.give("j", b)
    assert (a.jobs, b.jobs) == (set(), {"j"})
