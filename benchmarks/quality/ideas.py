"""Trials that were thought out, by method and number: as many for every method."""

from space import Value

_RATE: dict[str, Value] = {"regularizer": "coding_rate"}
_UNIFORM: dict[str, Value] = {"regularizer": "uniformity", "strength": 10.0}  # as strong as in the loss of SimCLR
_HELD: dict[str, Value] = {
    "regularizer": "uniformity",
    "strength": 30.0,
    "alignment": 1.0,
}  # views hold together without groups
_MANY: dict[str, Value] = {"groups": 1000, "heads": 1, "rate": 2.6e-3}
_INSTANCES: dict[str, Value] = {"groups_start": "end", "groups_gradient": 1}
_ALONE: dict[str, Value] = {"teacher": 0.0, "predictor": 0}
_LEADING: dict[str, Value] = {"groups_momentum": 0.9, "groups_start": "end"}  # groups that move with every batch
_BALANCED: dict[str, Value] = (
    _MANY | _UNIFORM | _ALONE | _LEADING | {"tau": 0.2, "assignment": "sinkhorn", "epsilon": 0.02}
)
_SHARP: dict[str, Value] = {"epsilon": 0.01, "tau": 0.2}

IDEAS: dict[str, dict[int, dict[str, Value]]] = {
    "swav": {
        3: _MANY | _UNIFORM,
        4: _MANY | _RATE | {"targets": "all"},
        5: _MANY | _UNIFORM | {"targets": "all", "queue": 2048},
        6: _MANY | _UNIFORM | {"targets": "all", "queue": 0},
        7: _MANY | _UNIFORM | {"tau": 0.2},
        8: _MANY | _UNIFORM | {"epsilon": 0.01},
        9: _MANY | _UNIFORM | {"tau": 0.05},
        10: _MANY | _UNIFORM | {"heads": 3},
        11: _MANY | _UNIFORM | {"rate": 4e-3},
        12: _MANY | _UNIFORM | {"alignment": 1.0},
        13: _MANY | _HELD,
        14: _HELD,
    },
    "smog": {
        3: _MANY | _RATE | _INSTANCES | {"groups_momentum": 0.5},
        4: _MANY | _RATE | _INSTANCES | _ALONE | {"groups_momentum": 0.0},
        5: _MANY | _UNIFORM | _ALONE | _LEADING,
        6: _MANY | _UNIFORM | {"teacher": 0.97, "predictor": 0, "assignment": "sinkhorn", "epsilon": 0.02},
        7: _BALANCED,
        8: _BALANCED | {"groups_momentum": 0.5},
        9: _BALANCED | {"groups_gradient": 1},
        10: _BALANCED | {"groups_momentum": 0.0},
        11: _BALANCED | _HELD | {"groups_momentum": 0.5, "groups": 100, "rate": 4e-3},
    },
    "deepcluster_v2": {2: _MANY | _RATE | {"label_epochs": 1}, 3: _HELD | {"rate": 4e-3}},
    "sela_v2": {  # of 1,000 groups the balanced labels alone take minutes
        2: _UNIFORM | {"heads": 1, "groups": 300, "label_epochs": 1, "rate": 2.6e-3},
        3: _HELD,
    },
    "simclr": {
        3: _RATE | {"strength": 3.0},
        4: _RATE | {"crops": "4x20"},
        5: _HELD,
        6: _RATE | {"tau": 0.1},
    },
    "alignment": {
        2: {"strength": 3.0, "crops": "4x20"},
        3: _UNIFORM,
        4: {"strength": 5.0},
        5: {"regularizer": "variance_covariance", "strength": 10.0},
        6: {"regularizer": "koleo", "strength": 10.0},
    },
    "resa": {
        2: _SHARP,
        3: _SHARP | _ALONE | {"groups_gradient": 1},
        4: _SHARP | _UNIFORM | {"epsilon": 0.005},
        6: _SHARP | _ALONE | _RATE | {"groups_gradient": 1, "scope": "resolution"},
        7: _SHARP | _ALONE | _HELD | {"groups_gradient": 1, "scope": "resolution"},
    },
}
