"""Connecting processes; tests/cli/test_processes.py runs several."""

import gc
import os
import signal
import threading

import jax
import pytest

from warp_translate.errors import UserError
from warp_translate.training import distributed

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
URI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}


@pytest.fixture
def initialized(monkeypatch):
    """Recorded calls of jax's function, in an environment without a launcher."""
    calls = []
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **kw: calls.append(kw))
    monkeypatch.setattr(distributed, "_missing", False)
    for name in [*SLURM, *OPEN_MPI, *URI, "SLURM_STEP_NUM_TASKS"]:
        monkeypatch.delenv(name, raising=False)
    return calls


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [{}, SLURM | {"SLURM_NTASKS": "1"}])
def test_single_process_initializes_nothing(initialized, monkeypatch, variables):
    set_all(monkeypatch, variables)
    distributed.connect()
    assert initialized == []


def test_flags_are_passed_on(initialized):
    distributed.connect("10.0.0.1:1234", 2, 1, 30)
    assert initialized == [
        {
            "heartbeat_timeout_seconds": 30,
            "initialization_timeout": 600,
            "coordinator_address": "10.0.0.1:1234",
            "num_processes": 2,
            "process_id": 1,
            "cluster_detection_method": "deactivate",
        }
    ]


@pytest.mark.parametrize("variables", [SLURM, OPEN_MPI | URI])
def test_launchers_of_several_processes_are_left_to_jax(initialized, monkeypatch, variables):
    set_all(monkeypatch, variables)
    distributed.connect(heartbeat_timeout=50)
    assert initialized == [{"heartbeat_timeout_seconds": 50, "initialization_timeout": 600}]


@pytest.mark.parametrize("change", [{"SLURM_STEP_NODELIST": None}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_shell_of_an_allocation_warns(initialized, monkeypatch, change):
    """The shells of salloc and of an interactive step."""
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "4"})
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    said = []
    distributed.connect(say=said.append)
    (line,) = said
    assert initialized == [] and "4 tasks" in line and "put srun before the command" in line
    set_all(monkeypatch, OPEN_MPI | URI)  # mpirun inside the allocation starts several.
    distributed.connect(say=said.append)
    assert len(initialized) == len(said) == 1


def test_missing_processes_time_out(initialized, monkeypatch):
    came = threading.Event()
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **_: came.wait())
    monkeypatch.setattr(distributed, "_SECONDS_TO_MEET", 0)
    monkeypatch.setattr(distributed, "_SECONDS_TO_MEET_QUIETLY", 0)
    said = []
    with pytest.raises(
        TimeoutError, match=r"not all processes connected within 0 s: .* srun"
    ) as caught:
        distributed.connect("node1:1", 2, 0, say=said.append)
    came.set()
    assert said == ["waiting for the other processes, 0 s at most"]
    assert distributed.is_one_of_several() and distributed.is_peer_loss(caught.value)
    distributed.wait_to_leave()  # Returns at once.


def test_environment_completes_the_flags(initialized, monkeypatch):
    set_all(monkeypatch, OPEN_MPI)
    with pytest.raises(UserError, match=r"from version 5 on.*--coordinator"):
        distributed.connect()
    distributed.connect("node1:99")
    assert (initialized[0]["num_processes"], initialized[0]["process_id"]) == (4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_processes": 2}, r"--num_processes=2 needs --coordinator"),
        ({"process_id": 0}, r"--process_id=0 needs --coordinator"),
        ({"coordinator": "node1"}, r"--coordinator=node1 must be HOST:PORT"),
        ({"coordinator": "node1:70000"}, r"--coordinator=node1:70000 must be HOST:PORT"),
        ({"coordinator": "node1:1", "process_id": 0}, r"needs --num_processes"),
        ({"coordinator": "node1:1", "num_processes": 2}, r"needs --process_id"),
        (
            {"coordinator": "node1:1", "num_processes": 2, "process_id": 2},
            r"--process_id=2 must be within 0 and 1",
        ),
        (
            {"coordinator": "node1:1", "num_processes": 0, "process_id": 0},
            r"--num_processes=0 must be at least 1",
        ),
        ({"heartbeat_timeout": 0}, r"--heartbeat_timeout=0 must be at least 1"),
    ],
)
def test_inconsistent_flags_are_rejected(initialized, arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.connect(**arguments)
    assert initialized == []


def test_failure_to_connect_is_a_user_error(initialized, monkeypatch):
    def fail(**_):
        raise RuntimeError("DEADLINE_EXCEEDED:\n barrier timed out")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=r"DEADLINE_EXCEEDED: barrier .* reaches process 0"):
        distributed.connect("node1:1", 2, 0)


def test_sigterm_is_noticed_and_the_handler_restored():
    before = signal.getsignal(signal.SIGTERM)
    leave = distributed.LeaveNotice()
    with leave.terminations():
        assert not leave(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert leave(2) and leave(3) and not leave.by_user
    assert signal.getsignal(signal.SIGTERM) is before


def test_first_ctrl_c_stops_and_second_interrupts(capfd):
    before = signal.getsignal(signal.SIGINT)
    leave = distributed.LeaveNotice()
    with pytest.raises(KeyboardInterrupt), leave.interrupts():
        assert not leave(1) and not leave.by_user
        os.kill(os.getpid(), signal.SIGINT)
        assert leave(2) and leave.by_user
        assert "Ctrl-C again leaves at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_during_garbage_collection_is_kept():
    leave = distributed.LeaveNotice()

    def interrupted(phase, info):
        gc.callbacks.remove(interrupted)
        os.kill(os.getpid(), signal.SIGINT)

    with leave.terminations():
        gc.callbacks.append(interrupted)
        gc.collect()  # Python prints and ignores the exception.
        with pytest.raises(KeyboardInterrupt), leave.interrupts():
            raise AssertionError("it was lost")


def test_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        leave = distributed.LeaveNotice()
        with leave.interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            assert not leave(1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_install_no_handlers():
    heard = []

    def work():
        leave = distributed.LeaveNotice()
        with leave.terminations(), leave.interrupts():
            heard.append(leave(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False]


def test_single_process_returns_its_own_value():
    value = object()
    assert distributed.from_first(lambda: value) is value
    assert distributed.gather(value) == [value]
    assert distributed.is_writer() and not distributed.is_one_of_several()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed"), True),
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: barrier timed out"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), False),
        (ValueError("UNAVAILABLE: gs://bucket/run: Connection refused"), False),  # A store's.
        (OSError("Gloo"), False),
    ],
)
def test_peer_loss_is_recognized(monkeypatch, error, lost):
    assert not distributed.is_peer_loss(error)
    monkeypatch.setattr(distributed.jax.distributed, "is_initialized", lambda: True)
    assert distributed.is_peer_loss(error) == lost
