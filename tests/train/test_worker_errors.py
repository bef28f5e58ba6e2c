"""Texts of Spark 4.1, gloo and torch for a lost worker, and when a slice is tried again."""

import logging
from types import SimpleNamespace

import pytest

from embedall_spark.errors import ResourceError, WorkerLost
from embedall_spark.train import retries, worker_errors
from embedall_spark.train.config import TrainConfig

BARRIER = (
    "Job aborted due to stage failure: Could not recover from a failed barrier ResultStage. Most recent failure "
    "reason: Stage failed because barrier task ResultTask(7, 1) finished unsuccessfully.\n"
)
LOST = BARRIER + "ExecutorLostFailure (executor 3 exited caused by one of the running tasks) Reason: "
TASK = (
    "Job aborted due to stage failure: Task 0 in stage 7.0 failed 4 times, most recent failure: Lost task 0.3 in stage "
)
TASK += "7.0 (TID 12) (10.0.0.7 executor 3): "
POD = (
    "\nThe executor with id 3 exited with exit code {}.\n\nThe API gave the following brief reason: N/A\nThe API gave "
    "the following message: N/A\nThe API gave the following container statuses:\n\n\t container name: "
    "spark-kubernetes-executor\n\t container state: terminated\n\t termination reason: {}\n"
)
GONE = "The host that held its windows"
TRACE = (
    'Traceback (most recent call last):\n  File "ring.py", line 91, in wait_for_all\n    wait.wait()\nRuntimeError: '
)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            LOST + "Container killed by YARN for exceeding physical memory limits. 9.1 GB of 9 GB physical memory "
            "used. Consider boosting spark.executor.memoryOverhead.",
            "raise spark.executor.memoryOverhead",
        ),
        (
            LOST + "Container killed by YARN for exceeding virtual memory limits. 19.1 GB of 18.9 GB virtual memory "
            "used. Consider boosting spark.executor.memoryOverhead or boosting yarn.nodemanager.vmem-pmem-ratio or "
            "disabling yarn.nodemanager.vmem-check-enabled because of YARN-4714.",
            "set yarn.nodemanager.vmem-check-enabled to false",
        ),
        (
            LOST + "Container from a bad node: container_17_0001_01_000004 on host: n7. Exit status: 137. Diagnostics: "
            "Container killed on request. Exit code is 137\n",
            "raise spark.executor.memoryOverhead",
        ),
        (LOST + POD.format("137(SIGKILL, possible container OOM)", "OOMKilled"), "raise spark.executor.memoryOverhead"),
        (LOST + "Command exited with code 137", "raise spark.executor.memoryOverhead"),
        (LOST + "Unable to create executor: Unknown executor exit code (137) (died from signal 9?)", "memoryOverhead"),
        (LOST + "Command exited with code 52", "raise spark.executor.memory"),
        (LOST + POD.format("52(JVM OOM)", "Error"), "raise spark.executor.memory"),
        (TASK + "java.lang.OutOfMemoryError: Java heap space\n\tat java.base/java.util", "raise spark.executor.memory"),
        (LOST + "Container container_17_0001_01_000004 on host: n7 was preempted.", "took its host or container away"),
        (
            LOST + "Executor for container container_17 exited because of a YARN event (e.g., preemption) and not "
            "because of an error in the running job.",
            "took its host or container away",
        ),
        (LOST + "The executor with id 3 was deleted by a user or the framework.", "took its host or container away"),
        (LOST + "Executor decommission: spot instance reclaimed", "took its host or container away"),
        (LOST + "Executor heartbeat timed out after 131072 ms", "out of memory or gone"),
        (LOST + "worker lost: Not receiving heartbeat for 60 seconds", "out of memory or gone"),
        (
            TASK + "ExecutorLostFailure (executor 3 exited caused by one of the running tasks) Reason: Remote RPC "
            "client disassociated. Likely due to containers exceeding thresholds, or network issues. Check driver logs "
            "for WARN messages.",
            "out of memory or gone",
        ),
        (BARRIER + "TaskResultLost (result lost from block manager)", GONE),
        (
            "Job aborted due to stage failure: Could not recover from a failed barrier ResultStage. Most recent "
            "failure reason: org.apache.spark.shuffle.FetchFailedException: Failed to connect to /10.0.0.7:40123",
            GONE,
        ),
        (
            "Job aborted due to stage failure: ShuffleMapStage 9 (collect at slice_job.py:48) has failed the maximum "
            "allowable number of times: 4. Most recent failure reason:\norg.apache.spark.shuffle.MetadataFetchFailed"
            "Exception: Missing an output location for shuffle 2 partition 1",
            GONE,
        ),
        (
            BARRIER + "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed). Consider setting "
            "'spark.python.worker.faulthandler.enabled' configuration to 'true' for the better Python traceback.",
            "give it more",
        ),
        (TRACE + "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:40123", "give it more"),
        (TRACE + "Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error", "Check its host"),
        (TRACE + "Connection was likely closed. Did the remote server shutdown or crash?", "out of memory or gone"),
    ],
)
def test_a_lost_worker_is_recognized_and_the_setting_named(text, advice):
    error = worker_errors.translate(text, "in epoch 2", 900)
    assert isinstance(error, WorkerLost)
    assert str(error).startswith(("a worker died in epoch 2 (", "a worker lost its connection to another in epoch 2 ("))
    assert advice in str(error)


def test_silence_lack_of_memory_and_what_is_no_loss():
    for text in (
        "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 900000ms for recv operation to complete",
        "torch.distributed.DistStoreError: Timed out after 901 seconds waiting for clients. 1/2 clients joined.",
        "Could not recover from a failed barrier ResultStage. The coordinator cannot get all barrier sync requests "
        "within 900 second(s).",
    ):
        assert "silent for train.timeout=900 s" in str(worker_errors.translate(BARRIER + text, "in epoch 2", 900))
    for text in (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 4.00 GiB for an array with shape (10, 2)",
        "MemoryError",
    ):
        error = worker_errors.translate(TASK + text, "in epoch 2", 900)
        assert isinstance(error, ResourceError) and "raise spark.executor.pyspark.memory" in str(error)
    for text in (
        "Job 7 cancelled because SparkContext was shut down: ExecutorLostFailure (executor 3 exited)",
        TASK + "org.apache.spark.api.python.PythonException: KeyError: 'inputs'",
        BARRIER + "org.apache.spark.api.python.PythonException: OSError: [Errno 28] No space left on device",
    ):
        assert worker_errors.translate(text, "in epoch 2", 900) is None


def attempts(outcomes):
    """Return a function that raises or returns these one after the other."""
    left = iter(outcomes)

    def attempt():
        with worker_errors.translate_worker_errors(0, 900):
            outcome = next(left)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    return attempt


def test_a_slice_is_tried_again_when_there_is_a_replacement(caplog):
    caplog.set_level(logging.INFO)
    died = RuntimeError(LOST + "Command exited with code 137")
    busy = iter([ResourceError("needs 2 task slots at once"), WorkerLost("the probe died"), None] + [None] * 5)
    checks = []

    def check():
        checks.append(missing := next(busy))
        if missing:
            raise missing

    options = SimpleNamespace(retries=2, timeout=60)
    assert retries.call(attempts([died, died, "trained"]), check, options, pause=0.001) == "trained"
    assert len(checks) == 4
    assert "Trying the slice again (train.retries: 1 of 2)" in caplog.text
    assert "waiting for a replacement of the lost worker: needs 2 task slots" in caplog.text
    with pytest.raises(WorkerLost, match=r"code 137.*memoryOverhead.*Start the run again"):
        retries.call(attempts([died] * 3), check, options, pause=0.001)
    # No replacement in time.
    busy = iter([ResourceError("needs 2 task slots at once")] * 9)
    with pytest.raises(ResourceError, match=r"needs 2 task slots at once.* no replacement .*train.timeout=0 s"):
        retries.call(attempts([died]), check, SimpleNamespace(retries=2, timeout=0), pause=0.001)


def test_what_is_not_tried_again():
    def check():
        raise AssertionError("nothing to wait for")

    # Spark itself has tried the task of a single worker four times.
    with pytest.raises(WorkerLost, match="Start the run again"):
        retries.call(attempts([RuntimeError(TASK + "ExecutorLostFailure (executor 3 exited)")]), check, TrainConfig())
    with pytest.raises(KeyError):
        retries.call(attempts([KeyError("inputs")]), check, TrainConfig())
    with pytest.raises(ResourceError, match="could not allocate memory"):
        retries.call(attempts([RuntimeError("MemoryError")]), check, TrainConfig())
