"""The tests; shapes and types of the package are checked while they run (see ``addopts`` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float too, as PEP 484 has it
