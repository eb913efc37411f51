"""The Coze stream gateway's transport-neutral core.

```
            upstream  ──▶  turns  ──▶  log  ──▶  reading
  Coze's bytes become    events follow,    written, then     cursors and frames,
  items                  and are appended  seen              one for each reader
```

Events pass from left to right only, and the two sides meet in the log. The way back is news (the log to whoever reads)
and one word to whoever writes: what was appended is lost, or somebody else goes on with it.

- `ids`, `events`, `errors`, `sentences`, `bounds`: the vocabulary, which everything else uses.
- `upstream`: Coze's HTTP API. `turns`: what one turn does, and how turns wait for one another. `log`: the event log.
  `reading`: how readers follow it. `store`: conversations and messages, in a database.
- `config`: settings. `telemetry`: logs, metrics, the ledger, faults. `simulator`: plays Coze.

`adapters` puts HTTP around all this, and is never imported from here.
"""

__version__ = "0.1.0"
