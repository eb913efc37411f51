"""The gateway beside a hand-written app, a library's and a node relay: `make bench`."""
