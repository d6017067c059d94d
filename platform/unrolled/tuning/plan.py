"""Which trial comes next."""

from __future__ import annotations

from collections import deque

from unrolled.config import Tuning
from unrolled.tuning.folder import Order
from unrolled.tuning.ledger import FAILED, RUNNING, Ledger
from unrolled.tuning.samplers import Sampler
from unrolled.tuning.space import Point


class Plan:
    """Hands out the trials of a sweep: those that an earlier start left open, then new points with all their seeds.

    Args:
        count: points of the sweep, earlier starts included; `None`: as many as the sampler has.
        seed: the first seed of every point.
    """

    def __init__(self, tuning: Tuning, sampler: Sampler, ledger: Ledger, *, count: int | None, seed: int) -> None:
        self._sampler, self._ledger, self._count = sampler, ledger, count
        self._seeds, self._seed = tuning.seeds, seed
        self._points = 0
        self._open: dict[int, set[str]] = {}
        self._waiting: deque[Order] = deque()
        self.closed = False
        self._continue()

    def _continue(self) -> None:
        """Takes up what earlier starts did."""
        points = {record["point"]: record["parameters"] for record in self._ledger.records.values()}
        for point in sorted(points):
            self._sampler.known(points[point])
            self._enqueue(point, points[point])

    def _enqueue(self, point: int, parameters: Point) -> None:
        orders = [
            Order(f"{point * self._seeds + place + 1:04}", point, self._seed + place, parameters)
            for place in range(self._seeds)
        ]
        self._points = point + 1
        open_ = [order for order in orders if self._state(order.name) in (None, RUNNING, FAILED)]
        self._open[point] = {order.name for order in open_}
        self._waiting.extend(open_)
        self._tell(point)

    def _state(self, name: str) -> str | None:
        record = self._ledger.records.get(name)
        return None if record is None else record["state"]

    def next(self) -> Order | None:
        """Returns the next trial, which is noted as begun; `None` where there is none any more."""
        if self.closed:
            return None
        if not self._waiting and (self._count is None or self._points < self._count):
            point = self._sampler.next()
            if point is not None:
                self._enqueue(self._points, point)
        if not self._waiting:
            return None
        order = self._waiting.popleft()
        self._ledger.begin(order)
        return order

    def ended(self, name: str) -> None:
        """Says that a trial ended; with the last of its point the sampler learns the scores."""
        point = self._ledger.records[name]["point"]
        self._open[point].discard(name)
        self._tell(point)

    def _tell(self, point: int) -> None:
        if not self._open[point]:
            self._sampler.tell(point, self._ledger.values(point))
