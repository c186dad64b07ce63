"""Offline training of Deep Feature Flow bundles."""
