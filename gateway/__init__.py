"""The Coze stream gateway's transport-neutral core.

```
  Coze  ──▶  upstream  ──▶  turns  ──▶  log  ──▶  reading  ──▶  adapters  ──▶  clients
             bytes become   events      written,  cursors and   SSE, WebSocket,
             items          follow      then seen frames        long-poll
```

Events pass from left to right only, and the writing and the reading side meet in the log. Apart from events there are
four signals: the log gives readers news; the log tells a writer that its records are lost, or that somebody else has
taken its stretch over; `reading` tells `turns` who listens; and `turns` tells `reading` when readers have to move to
another log or to leave.

- `ids`, `events`, `status`, `errors`, `sentences`, `bounds`: the vocabulary that everything else uses.
- `longtext`, `waiting`, `clocks`: a text of megabytes, a task that outlives its waiter, and wall time that never jumps.
- `upstream`: Coze's HTTP API. `turns`: what one turn does, and how turns wait for one another. `log`: the event log.
  `reading`: how readers follow it. `store`: conversations and messages, in a database.
- `nodes`: several processes on one PostgreSQL. `postgres`, `redis`: how each is reached, and its failures in words.
- `config`: settings. `telemetry`: the observer, logs, metrics, the ledger, faults. `simulator`: a simulated Coze.

`adapters` puts HTTP around all this; nothing here imports it except `__main__`, the command line.
"""

__version__ = "0.1.0"
