from collections import OrderedDict

import torch
from torch import nn

from coterie.models.nested_tensors import StandIn, flat_tensors

ONE, TWO = torch.ones(1), torch.ones(2)


def test_tensors_have_the_names_that_lead_to_them():
    content = {"a": ({"b.c": ONE, "d": "text"}, [3, TWO]), 7: OrderedDict(x=ONE), "none": None, "set": {1, 2}}
    found = flat_tensors(content)
    assert list(found) == ["a.0.b.c", "a.1.1", "7.x"]
    assert found["a.1.1"] is TWO


def test_a_tensor_alone_has_no_name():
    assert flat_tensors(ONE) == {"": ONE}
    assert flat_tensors("text") == {}


def test_what_contains_itself():
    content: dict[str, object] = {"a": ONE}
    content["self"] = [content, {"b": TWO, "inner": content}]
    shared = [TWO]
    content |= {"first": shared, "second": shared}
    assert list(flat_tensors(content)) == ["a", "self.1.b", "first.0", "second.0"]


def test_a_stand_in_has_its_attributes_and_items():
    stand_in = StandIn("ignored", 3)
    stand_in.__setstate__(({"weight": ONE}, {"slot": TWO}))
    stand_in.append(TWO)
    assert list(flat_tensors({"x": stand_in})) == ["x.weight", "x.slot", "x.0"]
    stand_in.__setstate__("nothing with names")


def test_a_network_that_was_saved_whole_has_the_names_of_its_state_dict():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ModuleDict({"norm": nn.BatchNorm2d(4)}))
    stand_ins = _as_stand_ins(network)
    assert list(flat_tensors(stand_ins)) == list(network.state_dict())
    assert all(flat_tensors(stand_ins)[name] is value for name, value in network.state_dict(keep_vars=True).items())


def _as_stand_ins(module: nn.Module) -> StandIn:
    stand_in = StandIn()
    layers = {name: _as_stand_ins(each) for name, each in module._modules.items() if each is not None}
    stand_in.__setstate__({**module.__dict__, "_modules": layers})
    return stand_in
