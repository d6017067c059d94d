"""The real steps of a scan, one after the other, without the padding between them."""

from __future__ import annotations

from torch import Tensor


def present(mask: Tensor | None) -> Tensor | None:
    """Where `mask` `(time, batch)` is True, as places in `(time · batch)`; `None` where it is so everywhere."""
    if mask is None or bool(mask.all()):
        return None
    return mask.flatten().nonzero()[:, 0]


def rows_of(values: Tensor, places: Tensor | None) -> Tensor:
    """`(time, batch, features)` → the rows at `places`, `(rows, features)`; all of them where that is `None`."""
    if places is None:
        return values.contiguous().flatten(0, 1)
    if values.is_contiguous():
        return values.flatten(0, 1).index_select(0, places)
    return values.transpose(0, 1).flatten(0, 1).index_select(0, _turned(places, *values.shape[:2]))


def filled(rows: Tensor, places: Tensor | None, steps: int, batch: int, *, turned: bool) -> Tensor:
    """Undoes `rows_of`, with zeros between the rows; `turned`: it lies in memory as `(batch, time, features)`."""
    if places is None:
        return rows.view(steps, batch, -1)
    shape = (batch, steps, rows.shape[1]) if turned else (steps, batch, rows.shape[1])
    whole = rows.new_zeros(shape)
    whole.flatten(0, 1).index_copy_(0, _turned(places, steps, batch) if turned else places, rows)
    return whole.transpose(0, 1) if turned else whole


def _turned(places: Tensor, steps: int, batch: int) -> Tensor:
    """The same places in `(batch · time)`."""
    return places % batch * steps + places // batch
