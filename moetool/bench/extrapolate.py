"""A straight line through what two parts of a model took: what all of it should take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A straight line through what two parts took, by how large they are."""

    small: tuple[float, float]
    large: tuple[float, float]

    def at(self, size: float) -> float:
        """What a model of that size should take; never less than the larger part took."""
        (x1, y1), (x2, y2) = self.small, self.large
        slope = (y2 - y1) / (x2 - x1)
        return y2 + max(0.0, slope) * (size - x2)

    def error_at(self, size: float, small_error: float, large_error: float) -> float:
        """How far off that may be when the two figures are off by so much, independently."""
        (x1, _), (x2, _) = self.small, self.large
        reach = (size - x2) / (x2 - x1)
        return float(((1 + reach) ** 2 * large_error**2 + reach**2 * small_error**2) ** 0.5)
