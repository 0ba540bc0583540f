"""Hypertables, declared on Piccolo tables: how they are said, what SQL they become, how migrations carry them."""
