"""Earlier names of settings: files that hold them can still be read, and ``--set`` suggests the present name."""

from typing import Any

RENAMED = {
    "clip": "clip_grad_norm",
    "mean_entropy": "regularizer",
    "memory.of": "memory.rows_from",
    "run.checkpoint_activations": "run.activation_checkpointing",
    "run.looks": "run.snapshots",
    "run.shard": "run.fsdp",
    "run.stop_when": "run.early_stop",
    "views.companion_views": "views.bn_only_views",
}
"""The present path of each setting that was renamed; a renamed setting stays in its table."""
RENAMED_VALUES: dict[str, dict[Any, Any]] = {
    "run.early_stop": {"stale": True, "never": False},
    "views.engine": {"device": "gpu"},
}


def modernize(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace earlier names and values in settings from a file by the present ones; nothing else is changed or checked."""
    weight = settings.get("mean_entropy", 0)
    settings = {key: value for key, value in settings.items() if key != "mean_entropy"}
    if weight != 0:  # a setting of its own before there were other regularizers
        settings["regularizer"] = {"kind": "mean_entropy", "weight": weight}
    return {key: _modern(key, value) for key, value in _renamed(settings, "").items()}


def _modern(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _modern(f"{path}.{key}", inner) for key, inner in _renamed(value, f"{path}.").items()}
    known = RENAMED_VALUES.get(path, {})
    return known.get(value, value) if isinstance(value, str) else value


def _renamed(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {RENAMED.get(prefix + key, key).rpartition(".")[2]: value for key, value in table.items()}
