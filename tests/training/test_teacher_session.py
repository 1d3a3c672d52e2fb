"""The teacher's idle threads do not spin: they would take the trainer's time, step after step."""

from __future__ import annotations

from typing import Any

import pytest
from training_models import mlp, samples

from onnx_admm.contracts import Trainer, TrainingSettings
from onnx_admm.runtime.sessions import Session, open_session
from onnx_admm.training.graph.trainer import GraphTrainer
from onnx_admm.training.session import OrtTrainer
from onnx_admm.training.teacher import Teacher

SPINNING = "session.intra_op.allow_spinning"


def options_of(session: Session) -> Any:
    return session._session.get_session_options()


@pytest.mark.parametrize("trainer", [GraphTrainer(), OrtTrainer()], ids=["graph", "onnxruntime-training"])
def test_the_teacher_does_not_spin(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> None:
    opened: list[Session] = []
    initialise = Teacher.__init__

    def seen(self: Teacher, session: Session, *arguments: Any, **named: Any) -> None:
        opened.append(session)
        initialise(self, session, *arguments, **named)

    monkeypatch.setattr(Teacher, "__init__", seen)
    settings = TrainingSettings(loss="blend", batch_size=32, threads=2)
    with trainer.open(mlp(), mlp().sites(), samples(), settings, mlp()):
        assert options_of(opened[0]).get_session_config_entry(SPINNING) == "0"


def test_other_sessions_are_as_the_runtime_has_them() -> None:
    with pytest.raises(RuntimeError, match=SPINNING):
        options_of(open_session(mlp(), threads=2)).get_session_config_entry(SPINNING)
