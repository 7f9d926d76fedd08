"""Views of images: their plan, their random parameters, and augmentation on the CPU or the GPU."""
