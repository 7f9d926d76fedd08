"""The names of all presets; it imports nothing, so that the command line can check a name before it loads torch."""

METHOD_NAMES = (
    "swav",
    "smog",
    "deepcluster_v2",
    "sela_v2",
    "simclr",
    "resa",
    "swav_imagenet_256",
    "swav_imagenet_4096",
    "swav_imagenet_2x224",
    "swav_imagenet_w2",
    "swav_imagenet_w4",
    "swav_imagenet_w5",
    "deepcluster_v2_imagenet_400",
    "deepcluster_v2_imagenet_800",
    "deepcluster_v2_imagenet_2x224",
    "sela_v2_imagenet_400",
    "smog_imagenet",
    "smog_imagenet_swin_tiny",
    "smog_imagenet_w2",
)
"""The keys of :data:`coterie.methods.presets.METHODS`, in their order; a test compares them."""
