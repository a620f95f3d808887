"""`python -m retouch` is the command `retouch`."""

from retouch.cli.main import run

if __name__ == "__main__":
    run()
