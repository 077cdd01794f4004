"""Speed and memory of an artifact beside its base, measured in pairs."""
