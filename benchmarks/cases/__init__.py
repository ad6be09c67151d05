"""What is measured, and what is demanded of it: a module for each kind, with its `FRAMEWORKS` and `cases(scale)`."""
