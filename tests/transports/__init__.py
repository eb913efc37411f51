"""The transports, over real HTTP: what each promises, and that all of them give the same."""
