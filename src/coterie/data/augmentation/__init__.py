"""Views: which are made, with which random parameters, on the CPU or the GPU."""
