"""What a model is and what it costs: facts from its configuration, exact counts of its layers, and predicted times."""
