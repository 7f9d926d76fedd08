"""The state of a run survives a checkpoint, and checkpoints of earlier versions can be read."""

import torch

from coterie.training.run_state import RunState


def test_it_survives_a_checkpoint(tmp_path) -> None:
    state = RunState(3, 100, {7: "empty"}, "enough", "probe", ["label_free"])
    torch.save({"run": state.state_dict()}, tmp_path / "state.pt")
    assert RunState.from_checkpoint(torch.load(tmp_path / "state.pt", weights_only=True)) == state


def test_a_checkpoint_is_a_copy() -> None:
    state = RunState(3, 100)
    saved = state.state_dict()
    state.bad_images[1] = "cut short"
    state.pending.append("probe")
    assert saved == RunState(3, 100).state_dict()


def test_checkpoints_of_earlier_versions() -> None:
    earlier = {"threads": 2, "images": 50, "bad": {3: "empty"}, "ended": None}
    assert RunState.from_checkpoint({"extra": earlier}) == RunState(2, 50, {3: "empty"})
    ended = RunState.from_checkpoint({"extra": earlier | {"ended": "a plateau"}})
    assert (ended.ended, ended.ended_by, ended.pending) == ("a plateau", "label_free", [])
    assert RunState.from_checkpoint({"extra": {"threads": 2, "images": 50, "bad": {}}}).ended is None
