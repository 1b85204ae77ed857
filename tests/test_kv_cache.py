from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vzoom.engine.kv_cache import BlockTable, OutOfPages, PagePool


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


def test_a_fork_shares_every_page_until_one_goes_on() -> None:
    shared = PagePool(num_layers=2, num_kv_heads=1, head_dim=8, num_blocks=8, block_size=4)
    keys = shared.k_pages.view(2, -1, 8)  # with one head a slot is a row
    parent = BlockTable(shared)
    keys[:, parent.extend(6), 0] = torch.arange(6.0)
    child = parent.fork()
    grandchild = child.fork()
    assert child.blocks == grandchild.blocks == parent.blocks
    assert shared.num_free == 6
    assert (parent.blocks_for(1), parent.blocks_for(2), parent.blocks_for(3)) == (1, 1, 2)
    new = child.extend(1)
    assert child.blocks[0] == parent.blocks[0]
    assert child.blocks[1] != parent.blocks[1]
    assert new.tolist() == [4 * child.blocks[1] + 2]
    assert keys[1, [4 * child.blocks[1], 4 * child.blocks[1] + 1], 0].tolist() == [4.0, 5.0]
    parent.truncate(0)
    grandchild.truncate(0)
    assert shared.num_free == 6  # the child's own
    assert keys[0, [4 * child.blocks[0] + i for i in range(4)], 0].tolist() == [0.0, 1.0, 2.0, 3.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["grow", "cut", "fork"]), st.integers(0, 9)), max_size=60))
def test_no_sequence_sees_what_another_writes(steps: list[tuple[int, str, int]]) -> None:
    """Every token gets a value of its own; each table must read back exactly its own."""
    shared = PagePool(num_layers=1, num_kv_heads=1, head_dim=8, num_blocks=14, block_size=4)
    tables = [BlockTable(shared) for _ in range(4)]
    values: list[list[float]] = [[], [], [], []]
    serial = 0.0
    for which, what, count in steps:
        table = tables[which]
        if what == "fork":
            other = count % 4
            if other != which:
                tables[other].truncate(0)
                tables[other], values[other] = table.fork(), list(values[which])
        elif what == "grow":
            free, need = shared.num_free, table.blocks_for(count)
            if need > free:
                with pytest.raises(OutOfPages):
                    table.extend(count)
                continue
            slots = torch.from_numpy(table.extend(count))
            assert free - shared.num_free == need
            fresh = [serial + i for i in range(count)]
            serial += count
            for pages in (shared.k_pages, shared.v_pages):
                # heads is 1: [1, blocks, 1, size, D] -> slots first
                pages.view(-1, 8)[slots] = torch.tensor(fresh)[:, None].expand(-1, 8)
            values[which] += fresh
        else:
            table.truncate(max(0, table.length - count))
            del values[which][table.length :]
        for t, own in zip(tables, values, strict=True):
            at = [t.blocks[i // 4] * 4 + i % 4 for i in range(t.length)]
            assert shared.k_pages.view(-1, 8)[at, 0].tolist() == own
            assert shared.v_pages.view(-1, 8)[at, 7].tolist() == own
    for table in tables:
        table.truncate(0)
    assert shared.num_free == 14
