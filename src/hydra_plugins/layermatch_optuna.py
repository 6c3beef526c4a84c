"""Hydra's door to the search of :mod:`layermatch.search`. Light: Hydra imports it at the start of every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

__all__ = ["OptunaSweeper"]


class OptunaSweeper(Sweeper):
    """Gives Optuna the validation accuracy of each job, and the next jobs what it proposes.

    Hydra's own plugin for Optuna asks for a version that is years old, so this is ours; see
    :func:`layermatch.search.search` for what the settings mean.

    Args:
        **settings: The section ``hydra.sweeper``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self._search: Callable[[list[str]], None] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what :meth:`sweep` needs."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.hydra_context = hydra_context
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

        def run(arguments: list[str]) -> None:
            from layermatch.search import search

            search(
                arguments,
                config=config,
                loader=hydra_context.config_loader,
                launch=lambda jobs, first: launcher.launch(jobs, initial_job_idx=first),
                **self.settings,
            )

        self._search = run

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Args:
            arguments: The words of the command line.

        Raises:
            RuntimeError: It was not set up.
        """
        if self._search is None:
            raise RuntimeError("setup comes first")
        self._search(arguments)
