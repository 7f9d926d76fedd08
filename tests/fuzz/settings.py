"""Settings files and ``--set path=value``."""

import functools
import tempfile
from pathlib import Path

import tomli_w
from hypothesis import strategies as st

from coterie.config.overrides import known_paths, parse_override, set_path
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict, to_toml
from coterie.methods.resolve import resolve_run
from tests.data.pictures import encoded, photo
from tests.fuzz.mutations import damaged

METHODS = ("swav", "smog", "sela_v2", "simclr")


@functools.cache
def configs() -> list[PretrainConfig]:
    """Settings of several methods for a folder of 64 images."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(64):
            (Path(folder) / f"{number}.png").write_bytes(encoded(photo(number, 16, 16)))
        flags = {"epochs": 2, "batch_size": 16, "backbone": "resnet18"}
        return [resolve_run(method, folder, flags).config for method in METHODS]


ODD = [
    "1e400",
    "-1",
    "0",
    "1",
    "1e308",
    "nan",
    "inf",
    "true",
    "''",
    "'x'",
    "[]",
    "{}",
    "[0]",
    "[[1]]",
    "none",
    "1979-05-27",
    "0x7fffffffffffffff",
]
ODD += [
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "[" * 200 + "]" * 200,
    "[" * 5000,
    "{a=" * 500,
    "'\\u0000'",
    '"\\u001b[2J"',
    "{kind='sgd'}",
    "{kind=3}",
]
ODD += [
    "[1, 'a', [2]]",
    "{kind='linear', start=1, end=1e999}",
    "[-1]",
    "[99999999999999999999]",
    "0.5",
    "3",
    "[2, 3]",
    "a\nb",
]

_VALUES = st.recursive(
    st.one_of(
        st.integers(),
        st.integers(-3, 3),
        st.floats(),
        st.text(max_size=8),
        st.booleans(),
        st.sampled_from([10**18, 10**400, -(10**400), 2**63]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["kind", "start", "end", "peak", "size"]), inner, max_size=2),
    ),
    max_leaves=4,
)


@st.composite
def _with_another_value(draw: st.DrawFn) -> bytes:
    """A complete settings file in which some values are replaced by arbitrary ones."""
    settings = to_dict(draw(st.sampled_from(configs())))
    for path in draw(st.lists(st.sampled_from(known_paths(settings)), min_size=1, max_size=3)):
        place = settings
        *parents, name = path.split(".")
        for part in parents:
            place = (
                place[int(part)] if isinstance(place, list) and part.isdecimal() and int(part) < len(place) else place
            )
            place = place.get(part, place) if isinstance(place, dict) else place
        if isinstance(place, dict):
            place[name] = draw(_VALUES)
    return tomli_w.dumps(settings).encode("utf-8", "replace")


@st.composite
def _assignments(draw: st.DrawFn) -> bytes:
    known = known_paths(to_dict(configs()[0]))
    path = draw(st.one_of(st.sampled_from(known), st.text(alphabet="abck.0123456789=", max_size=20)))
    value = draw(st.one_of(st.sampled_from(ODD), st.text(max_size=20), _VALUES.map(repr)))
    return f"{path}={value}".encode("utf-8", "replace")


def inputs() -> dict[str, st.SearchStrategy[bytes]]:
    """A function and not a constant, because it reads images."""
    texts = [to_toml(config).encode() for config in configs()]
    deep = st.sampled_from(
        [f"{before}{odd}\n".encode() for odd in ODD for before in ("data = ", "x = ", "[run]\nworkers = ")]
    )
    return {"settings": st.one_of(damaged(texts), _with_another_value(), deep), "assignments": _assignments()}


def attempt(kind: str, data: bytes, folder: Path) -> None:
    """Read the settings strictly; settings that are accepted survive writing and reading."""
    if kind == "settings":
        (folder / "config.toml").write_bytes(data)
        settings = read_toml(folder / "config.toml")
    else:
        settings = to_dict(configs()[0])
        set_path(settings, *parse_override(data.decode()))
    config = from_dict(settings)
    (folder / "again.toml").write_text(to_toml(config), "utf-8")
    assert from_dict(read_toml(folder / "again.toml")) == config
