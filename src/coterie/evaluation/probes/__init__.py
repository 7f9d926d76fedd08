"""Probes of features: each file is one."""
