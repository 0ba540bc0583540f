"""What goes wrong on purpose: processes and connections that are killed, clients and bodies that are odd.

AURUM_TEST_ROUNDS says how much of it: 1, unless it is set, is a short form; 10 is all of it.
"""

import os

ROUNDS = int(os.environ.get("AURUM_TEST_ROUNDS", "1"))
