"""Carrying out a plan: the work folder, the changed model in memory or by rewriting files, healing, judging, saving."""
