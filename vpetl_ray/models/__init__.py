"""Backbones, and how their weights are read. Imports torch and numpy alone."""
