"""The benchmark of the handler builds what it says: a store with room, and one that evicts."""

from tools.bench import handler


def test_the_handler_on_a_small_store_and_on_one_that_evicts() -> None:
    assert handler._bench(100, 100, 1)[2] == 0
    put_us, get_us, evictions = handler._bench(1, 10_000, 1)
    assert min(put_us, get_us) > 0
    assert evictions > 0
