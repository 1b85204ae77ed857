from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzoom.cache import BlockTable, OutOfPages, PagePool


def pool(num_blocks: int = 8, block_size: int = 4) -> PagePool:
    return PagePool(num_layers=2, num_kv_heads=2, head_dim=8, num_blocks=num_blocks, block_size=block_size)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 9)), max_size=40))
def test_no_slot_is_shared_and_every_page_comes_back(steps: list[tuple[int, bool, int]]) -> None:
    shared = pool(num_blocks=12)
    tables = [BlockTable(shared) for _ in range(3)]
    slots: list[list[int]] = [[], [], []]
    for which, grow, count in steps:
        table = tables[which]
        if grow:
            try:
                slots[which] += table.extend(count).tolist()
            except OutOfPages:
                assert table.length == len(slots[which])
        else:
            keep = max(0, table.length - count)
            table.truncate(keep)
            del slots[which][keep:]
        used = [s for own in slots for s in own]
        assert len(used) == len(set(used))
        assert [t.length for t in tables] == [len(own) for own in slots]
        assert shared.num_free + sum(len(t.blocks) for t in tables) == 12
        assert all(len(t.blocks) == -(-t.length // 4) for t in tables)
    for table in tables:
        table.truncate(0)
    assert shared.num_free == 12


def test_slots_follow_the_blocks() -> None:
    table = BlockTable(pool())
    first = table.extend(3)
    second = table.extend(3)
    a, b = table.blocks
    assert [*first, *second] == [4 * a, 4 * a + 1, 4 * a + 2, 4 * a + 3, 4 * b, 4 * b + 1]


def test_running_out_takes_nothing() -> None:
    shared = pool(num_blocks=2)
    table = BlockTable(shared)
    table.extend(5)
    with pytest.raises(OutOfPages, match="1 blocks needed, 0 of 2 free"):
        table.extend(4)
    assert table.length == 5
    with pytest.raises(ValueError, match="cannot truncate 5 tokens to 6"):
        table.truncate(6)


def test_a_page_is_not_released_twice() -> None:
    shared = pool()
    blocks = shared.allocate(2)
    shared.release(blocks)
    with pytest.raises(AssertionError, match="twice"):
        shared.release(blocks)
