"""The Coze stream gateway's transport-neutral core.

A turn's task (`runner`) reads Coze (`upstream`), decides in plain code what that means (`turn`) and appends events to
a log (`log`). Readers, live or resuming, are cursors over that log (`hub`, `subscription`). Nothing is pushed into
queues; the two sides meet only in the log. `adapters` puts HTTP around it and is never imported from here.
"""

__version__ = "0.1.0"
