"""Evaluate the quality of an artifact against its base model."""
