"""``python -m jobs.demo``."""

from jobs.command import script
from jobs.demo.story import main

script(main)
