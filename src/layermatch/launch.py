"""Who started the processes of a run, and which of them this one is.

A shell keeps rank variables (``RANK``, ``SLURM_PROCID``, ``OMPI_COMM_WORLD_RANK`` and others) of the job that it was
opened in, or of one that has ended. So they count only where a launcher has really started several processes: where it
is above this process, among its parents.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from layermatch.errors import UserError
from layermatch.rank_variables import number_of

__all__ = ["Launch", "OwnProcesses", "StartedProcesses", "environment_of", "find_launch", "take_rank"]

#: The variable that is set for the processes that a run starts itself: the id of its first one.
STARTED_BY = "LAYERMATCH_STARTED_BY"
#: A port that all sides take where nobody gives one; torch's own.
DEFAULT_PORT = 29500
#: Ports that are made of a job's number begin here.
FIRST_PORT = 15_000
#: What starts the processes of MPI, here and on other machines.
MPI_PROGRAMS = {
    "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "orted", "prted", "hydra_pmi_proxy", "pmi_proxy",
}  # fmt: skip


@dataclass(frozen=True)
class Launcher:
    """How a program that starts several processes tells each its place.

    Attributes:
        name: What people call it.
        sign: A variable that it alone sets.
        is_program: Whether a command line, as its arguments, is that program.
        size: The variable of the number of processes.
        rank: The variable with the number of this process.
        local_rank: The variable with its number on this machine.
        local_size: The variable with the number of processes on this machine.
    """

    name: str
    sign: str
    is_program: Callable[[list[str]], bool]
    size: str
    rank: str
    local_rank: str
    local_size: str


def _is_elastic(command: list[str]) -> bool:
    names = [Path(argument).name for argument in command[:8]]
    return any(name in {"torchrun", "accelerate"} or name.startswith("torch.distributed.") for name in names)


def _is_mpi(command: list[str]) -> bool:
    # A program that is a script is the second word.
    return any(Path(argument).name in MPI_PROGRAMS for argument in command[:2])


def _is_slurm_step(command: list[str]) -> bool:
    # `slurmstepd: [JOB.STEP]`; that of a job's own script is no number.
    return command[0].startswith("slurmstepd") and f".{os.environ.get('SLURM_STEP_ID')}]" in command[0]


def _is_any(command: list[str]) -> bool:
    return bool(command)  # nothing is known of its programs: what it sets is believed


#: mpirun starts its own helpers with srun, and torchrun is started by either: who is nearest comes first.
LAUNCHERS = (
    Launcher("torchrun", "TORCHELASTIC_RUN_ID", _is_elastic, "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    Launcher(
        "mpirun", "OMPI_COMM_WORLD_SIZE", _is_mpi, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("mpirun", "PMI_SIZE", _is_mpi, "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher(
        "srun", "SLURM_STEP_ID", _is_slurm_step, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID",
        "SLURM_STEP_TASKS_PER_NODE",
    ),
    Launcher(
        "jsrun", "LSB_DJOB_RANKFILE", _is_any, "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE",
    ),
)  # fmt: skip
#: What whoever starts each process by hand, or a cluster that knows no launcher, has to give.
BY_HAND = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """The place of this process among those of a run.

    Attributes:
        by: The launcher; empty where the run starts its processes itself.
        size: The number of processes, over all machines.
        rank: The number of this process, from 0.
        local_rank: The number of this process on its machine.
        local_size: The number of processes on each machine.
    """

    by: str
    size: int
    rank: int
    local_rank: int
    local_size: int

    @property
    def node(self) -> int:
        """The number of this machine."""
        return self.rank // self.local_size


def find_launch(*, devices: int, num_nodes: int, is_fixed: bool = False) -> Launch:
    """Return the place of this process in a run.

    Args:
        devices: The number of processes on each machine.
        num_nodes: The number of machines.
        is_fixed: Whether the user cannot choose these.

    Raises:
        UserError: A launcher started another number of processes, or what tells the machine's number is not legal.
    """
    size = devices * num_nodes
    if _is_of_own(size):
        return _own(devices, num_nodes, local_rank=number_of("LOCAL_RANK") or 0)
    for launcher in LAUNCHERS:
        started = number_of(launcher.size) or 1
        if launcher.sign in os.environ and started > 1 and _is_above(launcher):
            return _started_by(launcher, devices=devices, num_nodes=num_nodes, is_fixed=is_fixed)
    # Variables of torchrun without torchrun above are those of one that has ended.
    by_hand = None if "TORCHELASTIC_RUN_ID" in os.environ else _by_hand(devices, size)
    return by_hand or _own(devices, num_nodes, local_rank=0)


def _by_hand(devices: int, size: int) -> Launch | None:
    """Return the place that somebody gave this process with every variable that it takes; None if not."""
    needed = (*BY_HAND, *(("LOCAL_RANK",) if devices > 1 else ()))
    rank = number_of("RANK")
    if size == 1 or not all(os.environ.get(name) for name in needed) or number_of("WORLD_SIZE") != size:
        return None
    local_rank = number_of("LOCAL_RANK") if devices > 1 else 0
    if rank is None or rank >= size or local_rank is None or local_rank >= devices:
        return None
    return Launch("hand", size, rank, local_rank, devices)


def _is_of_own(size: int) -> bool:
    """Say whether this process is one of those that a run has started itself: one by another, or the one that did."""
    by = number_of(STARTED_BY)
    if by is None or size == 1:
        return False
    # All that are started have a number from 1 on; one of number 0 is a program that such a run starts for itself.
    return by == os.getpid() or bool(number_of("LOCAL_RANK"))


def _own(devices: int, num_nodes: int, *, local_rank: int) -> Launch:
    node = 0
    if num_nodes > 1:
        name = "NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK"
        given = number_of(name) if name in os.environ else 0
        if given is None or given >= num_nodes:
            raise UserError(
                f"{name}={os.environ[name]!r} is not legal: give the number of this machine, from 0 to "
                f"{num_nodes - 1} (trainer.num_nodes={num_nodes})"
            )
        node = given
        if node > 0 and not (os.environ.get("MASTER_ADDR") and number_of("MASTER_PORT")):
            raise UserError(
                f"{name}={node} needs MASTER_ADDR and MASTER_PORT, where the first machine is: the run there prints "
                "the line to start this one with"
            )
    return Launch("", devices * num_nodes, node * devices + local_rank, local_rank, devices)


def _started_by(launcher: Launcher, *, devices: int, num_nodes: int, is_fixed: bool) -> Launch:
    size, rank = number_of(launcher.size) or 1, number_of(launcher.rank) or 0
    here = _first_number(launcher.local_size) or (devices if size == devices * num_nodes else size)
    if size != devices * num_nodes or here != devices:
        wanted = devices * num_nodes
        nodes = max(size // here, 1)
        instead = f"trainer.devices={here}" + (f" trainer.num_nodes={nodes}" if nodes != num_nodes else "")
        is_placed_otherwise = f" in groups of {here}" if size == wanted else ""
        error = UserError(
            f"{launcher.name} started {size} processes{is_placed_otherwise}, and this is a run of {wanted} "
            f"(trainer.devices={devices} trainer.num_nodes={num_nodes}): "
            + ("" if is_fixed else f"give {instead}, or ")
            + f"start it {'without' if wanted == 1 else f'with {devices} on each machine by'} {launcher.name}"
        )
        error.is_said = rank == 0
        raise error
    local_rank = number_of(launcher.local_rank)
    return Launch(launcher.name, size, rank, rank % devices if local_rank is None else local_rank, devices)


def _first_number(variable: str) -> int | None:
    """Read the first number; Slurm writes ``2(x3)`` for three machines with two processes each."""
    found = re.match(r"\d+", os.environ.get(variable, ""))
    return int(found[0]) if found else None


def _is_above(launcher: Launcher) -> bool:
    """Say whether a launcher is among the parents of this process; where none can be seen, what it set is believed."""
    commands, is_whole = _commands_above(os.getpid())
    is_there = any(launcher.is_program(command) for command in commands if command)
    return is_there or not is_whole


@cache
def _commands_above(pid: int) -> tuple[list[list[str]], bool]:
    """List the command lines of a process's parents, and say whether those are all: some clusters hide some."""
    commands: list[list[str]] = []
    try:
        while pid > 1:
            # The second field, a name, may hold anything, but no bracket comes after it.
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            if pid > 0:
                text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                commands.append(text.rstrip("\0").split("\0"))
    except OSError:
        return commands, False
    return commands, True


def take_rank(launch: Launch) -> None:
    """Let this process know its rank: Lightning has taken it from the variables, whosever they were.

    Args:
        launch: The place of this process.
    """
    # A process of a run in several may do something alone in between: it stays what it is.
    if launch.size > 1 or not (number_of(STARTED_BY) and number_of("LOCAL_RANK")):
        rank_zero_only.rank = launch.rank  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- what Lightning asks


def environment_of(launch: Launch) -> ClusterEnvironment:
    """Return what Lightning asks for the place of a process.

    Args:
        launch: The place of this process among all.

    Raises:
        UserError: The first machine is not known.
    """
    return StartedProcesses(launch) if launch.by else OwnProcesses(launch)


class OwnProcesses(LightningEnvironment):
    """Processes that the run starts itself, one run on each machine.

    Variables that are left over name neither a rank nor, on one machine, an address.

    Args:
        launch: The place of this process.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch
        self._is_alone = launch.size == launch.local_size

    @property
    def creates_processes_externally(self) -> bool:
        """Whether they are there already: this is one of them, or the run before has started them."""
        return _is_of_own(self.launch.size)

    @property
    def main_address(self) -> str:
        """The address of the first machine."""
        given = None if self._is_alone else os.environ.get("MASTER_ADDR")
        return given or "127.0.0.1"

    @property
    def main_port(self) -> int:
        """The port of the first machine; whoever asks is about to start the processes, or is one of them."""
        if not self.creates_processes_externally:
            os.environ[STARTED_BY] = str(os.getpid())
            os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # no agent of torchrun serves these
            if self._is_alone:  # what is left in MASTER_PORT may be in use
                os.environ.pop("MASTER_PORT", None)
        return super().main_port

    def local_rank(self) -> int:
        """Return the number of this process on its machine."""
        return self.launch.local_rank

    def node_rank(self) -> int:
        """Return the number of this machine."""
        return self.launch.node


class StartedProcesses(ClusterEnvironment):
    """Processes that a launcher has started.

    Args:
        launch: The place of this process.

    Raises:
        UserError: The first machine is not known.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch
        self._address, self._port = _first_machine(launch)

    @property
    def creates_processes_externally(self) -> bool:
        """Whether a launcher has started the processes: always."""
        return True

    @property
    def main_address(self) -> str:
        """The address of the first machine."""
        return self._address

    @property
    def main_port(self) -> int:
        """The port of the first machine."""
        return self._port

    @staticmethod
    def detect() -> bool:
        """Return whether Lightning should choose this one by itself: never, as :func:`find_launch` chooses."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self.launch.size

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number of processes is known."""

    def global_rank(self) -> int:
        """Return the number of this process."""
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the number of this process is known."""

    def local_rank(self) -> int:
        """Return the number of this process on its machine."""
        return self.launch.local_rank

    def node_rank(self) -> int:
        """Return the number of this machine."""
        return self.launch.node


def _first_machine(launch: Launch) -> tuple[str, int]:
    """Return the address and port of the process of rank 0."""
    if launch.by == "jsrun":
        lsf = LSFEnvironment()
        return lsf.main_address, lsf.main_port
    given = os.environ.get("MASTER_ADDR")
    if launch.by in {"torchrun", "hand"}:
        return given or "127.0.0.1", number_of("MASTER_PORT") or DEFAULT_PORT
    if launch.size == launch.local_size:
        given = "127.0.0.1"
    elif launch.by == "srun" and not given:
        names = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
        given = SLURMEnvironment.resolve_root_node_address(next(filter(None, map(os.environ.get, names)), ""))
    if not given:
        raise UserError(
            f"{launch.by} on several machines needs the name of the first one in MASTER_ADDR: mpirun -x "
            "MASTER_ADDR=HOST -x MASTER_PORT=29500 ..."
        )
    job = os.environ.get("SLURM_JOB_ID", "") if launch.by == "srun" else ""
    default = FIRST_PORT + int(job[-4:]) if job.isdigit() else DEFAULT_PORT
    return given, number_of("MASTER_PORT") or default
