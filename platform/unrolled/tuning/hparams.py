"""What TensorBoard's HParams page shows of a trial."""

from __future__ import annotations

from typing import Any

from unrolled.training.run import RunFolder
from unrolled.training.tensorboard import TensorBoard
from unrolled.tuning.ledger import SCORED, Record
from unrolled.tuning.progress import shown


def write_hparams(run: RunFolder, record: Record) -> None:
    """Adds to the TensorBoard files of a trial what it was trained with; its scores stand there already."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

    plain = {key: _plain(value) for key, value in record["parameters"].items()} | {"seed": record["seed"]}
    status = api_pb2.STATUS_SUCCESS if record["state"] in SCORED else api_pb2.STATUS_FAILURE
    board = TensorBoard(run)
    board.add(summary_v2.hparams_pb(plain, trial_id=f"point {record['point']}"))
    end = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=status))
    about = metadata.create_summary_metadata(end)
    board.add(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)]))
    board.close()


def _plain(value: Any) -> Any:
    """The page knows numbers, texts and truths."""
    return value if isinstance(value, bool | int | float | str) else shown({"": value})[1:]
