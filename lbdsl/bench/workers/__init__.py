"""Programs that engines' own Pythons run; they import nothing of lbdsl."""
