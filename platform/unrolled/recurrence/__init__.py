"""Recurrent cells and their unrolling through time.

`CELLS` maps the names of a config to cells. A new cell is a subclass of `Cell` and an entry there.
"""

from __future__ import annotations

from unrolled.recurrence import state
from unrolled.recurrence.cell import Cell, State, StepBuffers
from unrolled.recurrence.gru import GRU, ChoGRU
from unrolled.recurrence.lstm import LSTM, PeepholeLSTM
from unrolled.recurrence.matmul import has_bfloat16_matmul
from unrolled.recurrence.mut import MUT1, MUT2, MUT3
from unrolled.recurrence.regularization import Dropout, Zoneout
from unrolled.recurrence.rnn import IRNN, RNN
from unrolled.recurrence.scan import Engine, scan
from unrolled.recurrence.stack import NonFiniteError, Stack, StackState, named_stacks
from unrolled.recurrence.state import Nest
from unrolled.recurrence.stepwise import Steps

CELLS: dict[str, type[Cell]] = {
    "rnn": RNN,
    "irnn": IRNN,
    "lstm": LSTM,
    "peephole_lstm": PeepholeLSTM,
    "gru": GRU,
    "cho_gru": ChoGRU,
    "mut1": MUT1,
    "mut2": MUT2,
    "mut3": MUT3,
}

__all__ = [
    "CELLS",
    "GRU",
    "IRNN",
    "LSTM",
    "MUT1",
    "MUT2",
    "MUT3",
    "RNN",
    "Cell",
    "ChoGRU",
    "Dropout",
    "Engine",
    "Nest",
    "NonFiniteError",
    "PeepholeLSTM",
    "Stack",
    "StackState",
    "State",
    "StepBuffers",
    "Steps",
    "Zoneout",
    "has_bfloat16_matmul",
    "named_stacks",
    "scan",
    "state",
]
