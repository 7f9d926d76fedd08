"""What the folder of a classifier or a detector refuses, and what a resumed training finds in its log."""

import json

import pytest

from coterie.errors import BadRun
from coterie.logger import NullLogger
from coterie.training.trained_folder import TrainedFolder
from coterie.training.training_checkpoints import TrainingCheckpoints

ASKED = {"seed": 0, "network": "a", "images": "b", "time": None}


class Counting:
    """A training whose state is how far it is."""

    what, total_steps = "counting", 9

    def __init__(self):
        self.done = 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]


@pytest.fixture
def kept(tmp_path):
    """A detector's folder whose training was killed after step 3 and saved after step 2."""
    folder, training = TrainedFolder(tmp_path / "out", "detector", ASKED), Counting()
    folder.write_config(steps=9)
    checkpoints = TrainingCheckpoints(folder, training)
    for training.done in range(1, 4):
        checkpoints.log({"step": training.done - 1})
        if training.done == 2:
            checkpoints.save()
    folder.close()
    return folder.path


@pytest.mark.parametrize(
    ("noun", "asked", "said"),
    [
        ("classifier", ASKED, "is a detector, not a classifier: choose another --out"),
        ("detector", ASKED | {"seed": 1}, "was begun with seed 0, not 1: choose another --out, or remove it"),
        ("detector", ASKED | {"time": "2m"}, "was begun with time none, not 2m"),
        ("detector", ASKED | {"network": "c"}, "the weights of MODEL have changed since"),
        ("detector", ASKED | {"images": "c"}, "the images of LABELED or their boxes have changed since"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_unlocked(kept, noun, asked, said):
    before = (kept / "config.toml").read_bytes()
    with pytest.raises(BadRun, match=said):
        TrainedFolder(kept, noun, asked)
    assert (kept / "config.toml").read_bytes() == before
    TrainedFolder(kept, "detector", ASKED).close()


@pytest.mark.parametrize(("config", "said"), [(None, "weights or checkpoints, but no"), ("[", "is damaged")])
def test_a_folder_without_a_config_is_refused(kept, config, said):
    (kept / "config.toml").unlink() if config is None else (kept / "config.toml").write_text(config)
    with pytest.raises(BadRun, match=said):
        TrainedFolder(kept, "detector", ASKED)


def test_the_log_goes_back_to_the_checkpoint(kept):
    folder, training = TrainedFolder(kept, "detector", ASKED), Counting()
    assert folder.chosen == {"steps": 9}
    assert len(folder.records()) == 3
    checkpoints = TrainingCheckpoints(folder, training)
    checkpoints.resume(NullLogger())
    assert training.done == 2
    checkpoints.log({"step": 2, "again": True})
    folder.close()
    lines = (kept / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0}, {"step": 1}, {"step": 2, "again": True}]
