"""From a config's keys to a stack of cells."""

from __future__ import annotations

from unrolled.config import Engine, Recurrent, Unprompted
from unrolled.recurrence import CELLS, Dropout, Stack


def build_stack(
    config: Recurrent,
    input_size: int,
    engine: Engine,
    *,
    bidirectional: bool = False,
    beside: int = 0,
    beside_layer: int = 0,
) -> Stack:
    """Makes the stack that `config` describes for inputs of `input_size` features; the rest as in `Stack`."""
    return Stack(
        CELLS[config.cell],
        input_size,
        config.hidden,
        layers=config.layers,
        bidirectional=bidirectional,
        dropout=config.dropout,
        variational=config.variational,
        residual=config.residual,
        layer_norm=config.layer_norm,
        zoneout=config.zoneout,
        initialization=config.initialization,
        learned_state=isinstance(config, Unprompted) and config.learned_state,
        beside=beside,
        beside_layer=beside_layer,
        engine=engine,
    )


def build_dropout(config: Recurrent) -> Dropout:
    """Makes the dropout around the stack that `config` describes."""
    return Dropout(config.dropout, variational=config.variational)
