"""Photos under two labels: what hangs together goes out together, in few steps."""

from __future__ import annotations

import pytest

from stacked_ram.preparing.duplicates import Duplicates, leave_out_conflicts


class Listed:
    """As much of a catalogue as conflicts need; counts what it is asked."""

    def __init__(self, classes: dict[int, str]) -> None:
        self.classes, self.asked = classes, 0
        self.out: dict[int, str] = {}

    def class_of(self, number: int) -> str:
        self.asked += 1
        return self.classes[number]

    def source_of(self, number: int) -> str:
        return f"{self.classes[number]}/{number}"

    def leave_out(self, numbers: list[int], why: str, detail: str) -> None:
        self.out |= dict.fromkeys(numbers, detail)


def conflicts(classes: dict[int, str], pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairs if classes[a] != classes[b]]


@pytest.mark.parametrize(
    ("exact", "near", "left_out"),
    [
        ([(1, 2), (1, 3)], [], {1, 2, 3}),
        ([], [(1, 2, 0), (1, 3, 0)], {1, 2, 3}),  # hashes 5, 5, 5
        ([], [(1, 2, 1), (1, 3, 1), (2, 3, 2)], {1, 2, 3}),  # hashes 5, 7, 13
        ([(1, 2)], [(1, 3, 0)], {1, 2, 3}),
        ([(1, 2), (3, 4)], [(1, 3, 4)], {1, 2, 3, 4}),
        ([], [(1, 2, 1), (1, 3, 1)], {1, 3}),  # 2 is like a photo under two labels, not one
        ([(1, 2)], [], set()),
    ],
)
def test_copies_go_out_together(exact, near, left_out) -> None:
    classes = {1: "cat", 2: "cat", 3: "dog", 4: "dog"}
    pairs = exact + [(a, b) for a, b, _ in near]
    listed = Listed(classes)
    found = Duplicates(exact, near, conflicts(classes, pairs))
    assert leave_out_conflicts(listed, found) == len(left_out)
    assert listed.out.keys() == left_out
    for number, detail in listed.out.items():
        other = "dog" if classes[number] == "cat" else "cat"
        assert detail.startswith(f"also under {other!r}: {other}/")


def test_many_photos_of_one_hash_are_few_steps() -> None:
    classes = {number: ("cat", "dog", "emu")[number % 3] for number in range(3000)}
    pairs = [(0, other) for other in range(1, 3000)]
    listed = Listed(classes)
    found = Duplicates([], [(a, b, 0) for a, b in pairs], conflicts(classes, pairs))
    assert leave_out_conflicts(listed, found) == 3000
    assert listed.asked < 5 * 3000
