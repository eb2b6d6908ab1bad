"""`python -m relujax`."""

from .cli import main

main()
