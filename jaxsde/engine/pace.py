"""How many steps the next launch should take, from what launches before it took."""

from __future__ import annotations

SECONDS = 0.5  # that a launch lasts: progress is shown, and an interrupt obeyed, that often
_WORTH = 4  # times as long as what a launch takes beside its steps, its steps should take at least


class Pace:
    """What launches of one program took: two of different lengths tell what each takes by itself (chains of many parameters
    are copied there and back), and what a step takes. From one alone, a launch that is all copying would look like slow
    steps, and the next one would be shorter still."""

    def __init__(self):
        self.launches: list[tuple[int, float]] = []

    def took(self, steps: int, seconds: float) -> None:
        self.launches = [*[other for other in self.launches if other[0] != steps][-1:], (steps, seconds)]

    @property
    def last(self) -> int:
        """Steps of the last launch."""
        return self.launches[-1][0]

    def steps(self, times: int = 1) -> int | None:
        """Steps of the next launch, which does so many `times` what those before did; None if there was none."""
        if not self.launches:
            return None
        (size, seconds), itself = self.launches[-1], 0.0
        if len(self.launches) == 2:
            before, took = self.launches[0]
            a_step = (seconds - took) / (size - before)
            itself = min(max(0.0, seconds - a_step * size), 0.9 * seconds)
        a_step = max(seconds - itself, 1e-7) / size
        return max(1, int(max(SECONDS / times - itself, _WORTH * itself) / a_step))
