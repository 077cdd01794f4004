"""Quality of an artifact against its base model."""
