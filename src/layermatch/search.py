"""A search for the settings with the best validation accuracy, by Optuna, over the jobs of a sweep.

Each trial of Optuna is a job of the sweep, and its number is the job's. What is known of all trials lies in the sweep's
directory, so that the search goes on after any end, and several processes, on several machines, may share it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layermatch.cli import explain
from layermatch.console import Reporter, table
from layermatch.errors import UserError, check_choice, check_number
from layermatch.metrics import VAL_ACCURACY_EMA
from layermatch.paths import expand
from layermatch.runs.claims import FAILED, FINISHED, RUNNING, STOPPED, holder_of
from layermatch.runs.identity import Kind, kind_of
from layermatch.runs.layout import RESULTS
from layermatch.runs.reading import read_results

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["JOURNAL", "search"]

#: The file of a sweep's directory in which Optuna keeps its trials, and the name that the search has there.
JOURNAL, NAME = "optuna.journal", "layermatch"

#: The lock in that directory which a process holds while it counts the trials and proposes more.
PROPOSING = "optuna.proposing.lock"

SAMPLERS = ("tpe", "random")

#: Seconds after which a trial that has no values yet counts as left by a process that has died.
ABANDONED = 60.0

#: What a search keeps of the command that began it.
ASKED = "asked"

Launch = Callable[[Sequence[Sequence[str]], int], object]


def search(
    arguments: Sequence[str],
    *,
    config: DictConfig,
    loader: ConfigLoader,
    launch: Launch,
    params: Mapping[str, object] | None,
    n_trials: int,
    n_jobs: int,
    sampler: str,
    seed: int,
) -> None:
    """Run the jobs that Optuna proposes, and go on with what an earlier process has left.

    Args:
        arguments: The words of the command line: settings, and ranges of those that are sought, in Hydra's grammar.
        config: The composed configuration of the sweep.
        loader: Hydra's loader, which knows the grammar.
        launch: A function that runs jobs; it takes the words of each, and the number of the first.
        params: Ranges by the names of settings; those of ``arguments`` count before them.
        n_trials: The number of jobs in all, at least 1.
        n_jobs: The number of jobs that are proposed together, at least 1.
        sampler: ``tpe`` or ``random``.
        seed: The seed of the sampler; what it proposes is a function of it, the number of the trial, and the results
            that are known then.

    Raises:
        UserError: A value is not legal, Optuna is not installed, or the directory holds another search.
    """
    check_number("hydra.sweeper.n_trials", n_trials, low=1, integer=True)
    check_number("hydra.sweeper.n_jobs", n_jobs, low=1, integer=True)
    check_number("hydra.sweeper.seed", seed, low=0, high=2**31, integer=True)
    check_choice("hydra.sweeper.sampler", sampler, SAMPLERS)
    _quiet_optuna()
    fixed, sought = _parse(arguments, params or {}, loader)
    sweep_dir = expand("run_dir", str(OmegaConf.select(config, "hydra.sweep.dir")), "a directory")
    sweep_dir.mkdir(parents=True, exist_ok=True)
    study = _open(sweep_dir, fixed, sought)
    _Search(
        study,
        sweep_dir,
        launch,
        compose=lambda words: loader.load_sweep_config(config, list(words)),
        fixed=[word.input_line or "" for word in fixed],
        sought=sought,
    ).run(n_trials=n_trials, n_jobs=n_jobs, make_sampler=lambda number: _sampler(sampler, seed + 7919 * number))


def _quiet_optuna() -> None:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(f"hparams_search=optuna needs {error.name}: pip install 'layermatch[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _sampler(kind: str, seed: int) -> BaseSampler:
    from optuna import samplers

    return samplers.RandomSampler(seed=seed) if kind == "random" else samplers.TPESampler(seed=seed)


# --------------------------------------------------------------------------------------------------- what is sought


def _parse(
    arguments: Sequence[str], params: Mapping[str, object], loader: ConfigLoader
) -> tuple[list[Override], dict[str, BaseDistribution]]:
    """Tell the words that are the same for all jobs from the settings that are sought."""
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(list(arguments))
    named = {word.get_key_element() for word in given}
    more = parser.parse_overrides([f"{key}={value}" for key, value in params.items() if key not in named])
    fixed = [word for word in (*more, *given) if not word.is_sweep_override()]
    sought = {word.get_key_element(): _distribution(word) for word in (*more, *given) if word.is_sweep_override()}
    if not sought:
        raise UserError(
            "hparams_search=optuna has nothing to seek: give SETTING=interval(LOW,HIGH), or choices SETTING=A,B"
        )
    return fixed, sought


def _distribution(word: Override) -> BaseDistribution:
    """Return the values that a setting may have, as Optuna takes them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values: Any = word.value()
    try:
        if isinstance(values, IntervalSweep):
            low: Any = values.start
            high: Any = values.end
            is_whole = isinstance(low, int) and isinstance(high, int)
            kind: Any = IntDistribution if is_whole else FloatDistribution
            distribution: BaseDistribution = kind(low, high, log="log" in values.tags)
            return distribution
        if isinstance(values, RangeSweep) and all(isinstance(each, int) for each in values.range()):
            numbers = sorted(int(each) for each in values.range())
            return IntDistribution(numbers[0], numbers[-1], step=abs(int(values.step)))
        return CategoricalDistribution(list(word.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise UserError(f"{word.input_line} is not legal: {error}") from error


def _open(sweep_dir: Path, fixed: Sequence[Override], sought: Mapping[str, BaseDistribution]) -> Study:
    """Return the search of a directory, begun or gone on with."""
    import optuna
    from optuna.distributions import distribution_to_json
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL)))
    study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
    asked = {key: distribution_to_json(values) for key, values in sought.items()}
    asked |= {
        word.get_key_element(): word.get_value_element_as_str()
        for word in fixed
        if kind_of(word.get_key_element().lstrip("+~")) not in {Kind.OWN, Kind.APART}
    }
    before = study.user_attrs.get(ASKED)
    if before is None:
        study.set_user_attr(ASKED, asked)
    elif before != asked:
        changed = [key for key in dict.fromkeys([*before, *asked]) if before.get(key) != asked.get(key)]
        raise UserError(
            f"run_dir={sweep_dir} holds a search with other settings ({', '.join(changed)}): give another run_dir, or "
            "the command that began it and ckpt_path=auto"
        )
    return study


# ---------------------------------------------------------------------------------------------------------- trials


class _Search:
    """The trials of one process."""

    def __init__(
        self,
        study: Study,
        sweep_dir: Path,
        launch: Launch,
        *,
        compose: Callable[[Sequence[str]], object],
        fixed: Sequence[str],
        sought: Mapping[str, BaseDistribution],
    ) -> None:
        self.study, self.sweep_dir, self.launch, self.compose = study, sweep_dir, launch, compose
        self.fixed, self.sought = list(fixed), sought
        self._tried: set[int] = set()
        self._not_composed: list[int] = []

    def run(self, *, n_trials: int, n_jobs: int, make_sampler: Callable[[int], BaseSampler]) -> None:
        """Run what is left over, then what is missing.

        Raises:
            UserError: Jobs had no configuration. All others have been run then.
        """
        while True:
            batch = self._left_over()[:n_jobs]
            with FileLock(self.sweep_dir / PROPOSING):  # or two processes that count together would propose too many
                missing = n_trials - len(self.study.get_trials(deepcopy=False))
                while missing > 0 and len(batch) < n_jobs:
                    batch.append(self._propose(make_sampler))
                    missing -= 1
            if not batch:
                break
            if not self._run(batch):
                break
        self._show()
        if self._not_composed:
            numbers = ", ".join(map(str, self._not_composed))
            raise UserError(f"jobs {numbers} of the search have no configuration, as said above: give other choices")

    def _propose(self, make_sampler: Callable[[int], BaseSampler]) -> tuple[int, dict[str, Any]]:
        trial = self.study.ask()
        # One that has the trial's own number for a seed: another process, or a later one, proposes other values.
        self.study.sampler = make_sampler(trial.number)
        for name, values in self.sought.items():
            _draw(trial, name, values)
        return trial.number, dict(trial.params)

    def _left_over(self) -> list[tuple[int, dict[str, Any]]]:
        """List trials that no process is at, of one that has ended before they did."""
        from optuna.trial import TrialState

        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in self._tried:
                continue
            if trial.params.keys() == self.sought.keys():
                holder = holder_of(self.sweep_dir / str(trial.number))
                if holder is None or not holder.is_at_work():
                    found.append((trial.number, dict(trial.params)))
            elif trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > ABANDONED:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return found

    def _run(self, batch: Sequence[tuple[int, dict[str, Any]]]) -> bool:
        """Run jobs, and tell Optuna what came out; False where the search is asked to stop."""
        self._tried |= {number for number, _ in batch}
        composed = [job for job in batch if self._is_composed(*job)]
        for first, jobs in _neighbours(composed):
            words = [self._words(values) for values in jobs]
            self.launch(words, first)
            states = [self._tell(number) for number in range(first, first + len(jobs))]
            if STOPPED in states:
                return False
        return True

    def _words(self, values: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{name}={value}" for name, value in values.items())]

    def _is_composed(self, number: int, values: Mapping[str, Any]) -> bool:
        """Say whether a job has a configuration; one that has none is told of as failed, and ends no other."""
        from optuna.trial import TrialState

        try:
            self.compose(self._words(values))
        except (HydraException, OmegaConfBaseException, UserError) as error:
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            sys.stderr.write(f"error: {self.sweep_dir / str(number)}: {explain(error)}\n")
            self._not_composed.append(number)
            return False
        return True

    def _tell(self, number: int) -> str:
        """Tell Optuna how a job ended, and return it."""
        from optuna.trial import TrialState

        run_dir = self.sweep_dir / str(number)
        holder = holder_of(run_dir)
        if holder is None:  # no worker has begun it: the first process was asked to stop
            return STOPPED
        if holder.state == FINISHED:
            accuracy = VAL_ACCURACY_EMA.read(read_results(run_dir / RESULTS))
            if accuracy is None:
                raise UserError(
                    "hparams_search=optuna chooses by validation images, and there are none: give data.num_val above 0"
                )
            self.study.tell(number, float(accuracy), skip_if_finished=True)
        elif holder.state == FAILED or (holder.state == RUNNING and not holder.is_at_work()):
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            return FAILED
        return holder.state

    def _show(self) -> None:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
        left = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        rows = {"jobs": f"{len(finished)} finished"}
        if failed:
            rows["failed"] = ", ".join(map(str, failed))
        if left:
            rows["not ended"] = ", ".join(map(str, left))
        if finished:
            best = max(finished, key=_value)
            rows["best"] = f"{self.sweep_dir / str(best.number)}, {_value(best):.2%} of the validation images are right"
            rows |= {name: str(value) for name, value in best.params.items()}
        Reporter().show(table("Search", rows))


def _draw(trial: Trial, name: str, values: BaseDistribution) -> None:
    """Let Optuna choose a setting's value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, FloatDistribution):
        trial.suggest_float(name, values.low, values.high, log=values.log)
    elif isinstance(values, IntDistribution):
        trial.suggest_int(name, values.low, values.high, step=values.step, log=values.log)
    elif isinstance(values, CategoricalDistribution):
        trial.suggest_categorical(name, values.choices)


def _value(trial: FrozenTrial) -> float:
    return float("-inf") if trial.value is None else trial.value


def _neighbours(batch: Sequence[tuple[int, dict[str, Any]]]) -> list[tuple[int, list[dict[str, Any]]]]:
    """Group jobs whose numbers follow each other: a launcher counts from the first one."""
    groups: list[tuple[int, list[dict[str, Any]]]] = []
    for number, values in sorted(batch, key=lambda job: job[0]):
        if groups and groups[-1][0] + len(groups[-1][1]) == number:
            groups[-1][1].append(values)
        else:
            groups.append((number, [values]))
    return groups
