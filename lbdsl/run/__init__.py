"""Run a plan: the work folder, changing the model in memory or by rewriting files, healing, saving and evaluating."""
