"""The gateway's tests. A test's name is a sentence about behaviour; `CONTRIBUTING.md` says which to run after a change.

Some folders are of one part of the gateway (`store`, `upstream`, `edge`, `transports`, `nodes`, `browser`), others of
one question to all of it (`contracts`, `faults`, `cancellation`, `leaks`, `chaos`, `load`, `bench`, `model`).
"""
