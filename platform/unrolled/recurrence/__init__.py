"""Recurrent cells and their unrolling through time.

`CELLS` names every cell as configs do. A new cell is one file and one line here.
"""

from __future__ import annotations

from unrolled.recurrence import state
from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.gru import GRU, ChoGRU
from unrolled.recurrence.lstm import LSTM, PeepholeLSTM
from unrolled.recurrence.mut import MUT1, MUT2, MUT3
from unrolled.recurrence.regularization import Dropout
from unrolled.recurrence.rnn import IRNN, RNN
from unrolled.recurrence.scan import Engine, scan
from unrolled.recurrence.stack import NonFiniteError, Stack, StackState, named_stacks
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
    "NonFiniteError",
    "PeepholeLSTM",
    "Stack",
    "StackState",
    "State",
    "Steps",
    "named_stacks",
    "scan",
    "state",
]
