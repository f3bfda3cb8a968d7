"""Chance that keeps processes from doing things at the same moment."""

import random

# Our own source: the global one belongs to the program, which may have seeded it.
uniform = random.Random().uniform
