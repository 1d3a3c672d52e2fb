"""One worker process, with limits, for code that may crash, hang or fill the memory."""

from onnx_admm.worker.process import TaskFailed, TaskLimits, WorkerEnded, run_task, warm_up

__all__ = ["TaskFailed", "TaskLimits", "WorkerEnded", "run_task", "warm_up"]
