"""What is chosen for a run before its preset completes the rest: by a budget, or because the user names no method."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scale:
    """At which size images are seen, and by which network.

    Attributes:
        side: side in pixels of whole images as the network sees them, of which crops are parts; None: as the preset has it.
        network: name of the network; None: as the preset has it.
        width: factor on its channels, for a ResNet.
    """

    side: int | None = None
    network: str | None = None
    width: float = 1.0


@dataclass(frozen=True)
class Choice:
    """Each value takes the place of the preset's own; None: the preset chooses.

    Attributes:
        method: the preset.
        scale: network and size of the images.
        epochs: passes over the images, in place of those that were requested too.
        reasons: the reason for each value, by the path of its setting.
    """

    method: str | None = None
    scale: Scale | None = None
    epochs: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
