"""Symmetric systems whose unknowns are coupled from slot to slot: block tridiagonal, solved by cyclic reduction."""

from __future__ import annotations

import numpy as np

from stackelgrid.wire.arrays import Array

_FEW = 12
"""So many slots are solved at once."""


class BlockTridiagonal:
    """A positive definite matrix with blocks `diagonal` (T, S, S) and, beside them, diagonal blocks (T-1, S).

    `beside[t]` couples slot t+1 with slot t. Every second slot is eliminated at once, and again of those that are left,
    until few are, by a few operations on arrays each time.
    """

    def __init__(self, diagonal: Array, beside: Array) -> None:
        self._levels: list[tuple[Array, Array, Array]] = []
        coupling = beside[:, :, None] * np.eye(beside.shape[1])
        while len(diagonal) > _FEW:
            inverse = np.asarray(np.linalg.inv(diagonal[1::2]), float)
            # A slot that is eliminated has one before it, and one behind it unless it is the last.
            to_behind = coupling[1::2]
            before, behind = inverse @ coupling[0::2], inverse[: len(to_behind)] @ to_behind.transpose(0, 2, 1)
            self._levels.append((inverse, before, behind))
            kept = diagonal[0::2].copy()
            kept[: len(before)] -= coupling[0::2].transpose(0, 2, 1) @ before
            kept[1 : 1 + len(behind)] -= to_behind @ behind
            diagonal, coupling = kept, -to_behind @ before[: len(behind)]
        few, size = diagonal.shape[:2]
        last = np.zeros((few, size, few, size))
        at = np.arange(few)
        last[at, :, at] = diagonal
        last[at[1:], :, at[:-1]], last[at[:-1], :, at[1:]] = coupling, coupling.transpose(0, 2, 1)
        self._last = np.linalg.inv(last.reshape(few * size, few * size))

    def solve(self, right: Array) -> Array:
        """Solve for right-hand sides (T, S, K)."""
        rights = []
        for _, before, behind in self._levels:
            rights.append(right)
            odd, kept = right[1::2], right[0::2].copy()
            kept[: len(before)] -= before.transpose(0, 2, 1) @ odd
            kept[1 : 1 + len(behind)] -= behind.transpose(0, 2, 1) @ odd[: len(behind)]
            right = kept
        found = np.asarray((self._last @ right.reshape(-1, right.shape[2])).reshape(right.shape))
        for (inverse, before, behind), right in zip(reversed(self._levels), reversed(rights), strict=True):
            odd = inverse @ right[1::2] - before @ found[: len(before)]
            odd[: len(behind)] -= behind @ found[1 : 1 + len(behind)]
            whole = np.empty_like(right)
            whole[0::2], whole[1::2] = found, odd
            found = whole
        return found
