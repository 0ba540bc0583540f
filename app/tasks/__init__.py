"""The commands: a room for each kind of them, and what they share. `tasks.py` gathers them for invoke."""
