"""`python -m callboard`, which is `callboard`."""

from callboard.cli import main

main()
