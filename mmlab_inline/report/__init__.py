"""What a run leaves to look at: curves, a report of its evaluation, several runs side by side."""

from .compare import compare, metrics_table, read_runs
from .curves import draw_curves, draw_several, plot_losses
from .hooks import EVALUATED, CurvesHook, ReportHook
from .record import Record, read_record
from .run_report import RunReport
from .sweep import collect, sweep_table, write_sweep
from .tensorboard import TensorBoardScalars

__all__ = [
    'EVALUATED',
    'CurvesHook',
    'Record',
    'ReportHook',
    'RunReport',
    'TensorBoardScalars',
    'collect',
    'compare',
    'draw_curves',
    'draw_several',
    'metrics_table',
    'plot_losses',
    'read_record',
    'read_runs',
    'sweep_table',
    'write_sweep',
]
