"""Loggers that show more than curves: the settings, pictures, and the results of a run."""

from layermatch.dashboards.base import About, Dashboard, begin, close, dashboards_of, show_results
from layermatch.dashboards.naming import changes_of, run_group, run_name
from layermatch.dashboards.tensorboard_run import TensorBoardDashboard
from layermatch.dashboards.wandb_run import CHECKPOINT_CHOICES, RUN_ID, WandbDashboard, continued_run, server_address

__all__ = [
    "CHECKPOINT_CHOICES",
    "RUN_ID",
    "About",
    "Dashboard",
    "TensorBoardDashboard",
    "WandbDashboard",
    "begin",
    "changes_of",
    "close",
    "continued_run",
    "dashboards_of",
    "run_group",
    "run_name",
    "server_address",
    "show_results",
]
