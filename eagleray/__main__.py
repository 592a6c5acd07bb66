"""`python -m eagleray`: the same as the command `eagleray`."""

from eagleray.cli.app import main

main()
