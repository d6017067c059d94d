"""Recurrent cells and their unrolling through time.

`CELLS` names every cell as configs do. A new cell is one file and one line here.
"""

from __future__ import annotations

from unrolled.recurrence import state
from unrolled.recurrence.cell import Cell, State
from unrolled.recurrence.gru import GRU
from unrolled.recurrence.lstm import LSTM
from unrolled.recurrence.rnn import RNN
from unrolled.recurrence.scan import Engine, scan
from unrolled.recurrence.stack import Stack, StackState

CELLS: dict[str, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}

__all__ = ["CELLS", "GRU", "LSTM", "RNN", "Cell", "Engine", "Stack", "StackState", "State", "scan", "state"]
