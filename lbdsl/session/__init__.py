"""A model at hand, and what a recipe asks of it: texts, scores of whole plans and tasks, patches, searches, predictions."""
