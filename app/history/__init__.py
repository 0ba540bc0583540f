"""Answers for what was measured: `series` over a range, the newest readings, the state of the fleet."""
