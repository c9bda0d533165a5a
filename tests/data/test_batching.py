from __future__ import annotations

import numpy as np
import pytest

from stacked_ram.data.batching import (
    Rows,
    by_shape,
    drawn,
    evaluation_batches,
    training_batches,
)
from stacked_ram.data.rng import derive_seed, hash_seed, random_numbers

SAME = np.full((103, 2), 8)


def sizes_of(count, seed=0):
    return np.random.default_rng(seed).integers(100, 300, (count, 2))


def padding(sizes):
    """The fraction of padding among all pixels of batches, from the sizes of each."""
    own = sum(sizes_B2.prod(1).sum() for sizes_B2 in sizes)
    return 1 - own / sum(len(sizes_B2) * sizes_B2.max(0).prod() for sizes_B2 in sizes)


def train(sizes_N2, *, rank=0, world=1, batch_size=10, epoch=0, labels=None, balanced=False):
    labels = np.arange(len(sizes_N2)) % 4 if labels is None else labels
    rows = drawn(labels, 0, epoch, balanced)
    return training_batches(
        rows, sizes_N2[rows.index_B], batch_size=batch_size, rank=rank, world=world, seed=0,
        epoch=epoch,
    )  # fmt: skip


@pytest.mark.parametrize("sizes_N2", [SAME, sizes_of(103)])
def test_an_epoch_has_every_photo_once_and_the_next_another_order(sizes_N2):
    first, second = (np.concatenate([b.index_B for b in train(sizes_N2, epoch=e)]) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(103))
    assert (first != second).any()
    again = np.concatenate([b.index_B for b in train(sizes_N2)])
    assert (first == again).all()


@pytest.mark.parametrize("sizes_N2", [SAME, sizes_of(103)])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_train_on_equal_parts_of_the_same_global_batches(sizes_N2, world):
    shards = [train(sizes_N2, rank=r, world=world, batch_size=6) for r in range(world)]
    lengths = [[len(b.index_B) for b in shard] for shard in shards]
    assert all(length == lengths[0] for length in lengths)
    indices = np.concatenate([b.index_B for shard in shards for b in shard])
    assert (
        len(indices) == len(set(indices)) > 103 - world
    )  # no duplicates; fewer than `world` are left out
    whole = train(sizes_N2, batch_size=6 * world)
    for step, batch in enumerate(whole):
        together = {i for shard in shards for i in shard[step].index_B.tolist()}
        assert together <= set(batch.index_B.tolist())


def test_no_batch_of_one_unless_it_is_the_only_one():
    assert [len(b.index_B) for b in train(SAME[:21])] == [10, 10]
    assert [len(b.index_B) for b in train(SAME[:1])] == [1]
    assert [len(b.index_B) for b in train(SAME[:7])] == [7]
    assert sorted(len(b.index_B) for b in train(SAME[:22])) == [2, 10, 10]


def test_batches_group_similar_shapes_and_still_vary():
    sizes_N2 = sizes_of(2000)
    batches = train(sizes_N2, batch_size=20)
    mixed_up = [sizes_N2[i : i + 20] for i in range(0, 2000, 20)]
    assert padding([sizes_N2[b.index_B] for b in batches]) < 0.6 * padding(mixed_up)

    def pairs(epoch):
        batches = train(sizes_N2, batch_size=20, epoch=epoch)
        return {(i, j) for b in batches for i in b.index_B for j in b.index_B if i < j}

    first, second = pairs(0), pairs(1)
    assert len(first & second) / len(first) < 0.15


def test_by_shape_separates_wide_from_tall():
    sizes_N2 = np.array([[10, 20], [20, 10]] * 8)
    order = by_shape(np.arange(16), sizes_N2, 8)
    assert len(np.unique(sizes_N2[order[:8]], axis=0)) == 1
    assert sorted(order) == list(range(16))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_sees_each_photo_once_over_all_ranks(world):
    sizes_N2 = sizes_of(103)
    indices = [
        i for rank in range(world)
        for batch in evaluation_batches(sizes_N2, batch_size=10, rank=rank, world=world)
        for i in batch.index_B.tolist()
    ]  # fmt: skip
    assert sorted(indices) == list(range(103))


def test_balanced_draws_every_class_equally_often():
    labels = np.array([0] * 90 + [1] * 9 + [2] * 3)
    rows = drawn(labels, 0, 0, balanced=True)
    assert np.bincount(labels[rows.index_B]).tolist() == [34, 34, 34]
    # a repeated photo has another number, so that it is augmented differently
    assert len(set(zip(rows.index_B.tolist(), rows.copy_B.tolist(), strict=True))) == 102
    rare = np.bincount(rows.index_B, minlength=102)[99:]
    assert rare.max() - rare.min() <= 1


def test_random_numbers_are_uniform_and_depend_on_every_argument():
    rows = Rows(np.arange(4000), np.zeros(4000, int))
    draws = random_numbers(3, 0, 0, *rows)
    assert draws.shape == (4000, 3) and draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean(axis=0) - 0.5).max() < 0.02
    assert abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.05
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.05
    for other in (random_numbers(3, 1, 0, *rows), random_numbers(3, 0, 1, *rows),
                  random_numbers(3, 0, 0, rows.index_B, rows.copy_B + 1)):  # fmt: skip
        assert abs(np.corrcoef(draws[:, 0], other[:, 0])[0, 1]) < 0.05
    part = Rows(rows.index_B[[7, 900]], rows.copy_B[:2])
    assert (
        random_numbers(3, 0, 0, *part) == draws[[7, 900]]
    ).all()  # independent of the rest of the batch
    assert derive_seed(0, 1) != derive_seed(1, 0)
    assert 0 <= derive_seed(-5, 2**40) < 2**63
    assert len(set(hash_seed(0, np.arange(1000)).tolist())) == 1000


def test_splitmix64_gives_the_published_numbers():
    """First outputs for the seed 1234567, as other implementations give them."""
    from stacked_ram.data.rng import GOLDEN, _mix

    states = np.uint64(1234567) + GOLDEN * np.arange(3, dtype=np.uint64)
    assert _mix(states).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip
