"""A sample configuration file: every setting with its default, its meaning and what is allowed."""

import textwrap
from collections.abc import Mapping

from gateway.config.loading import toml
from gateway.config.settings import Settings, env_name

MEANINGS: Mapping[str, str] = {
    "coze_api_token": "Coze's access token. Without one the simulated Coze answers.",
    "coze_api_base": "Coze's base URL; https://api.coze.com for coze.com.",
    "coze_jwt_app_id": "Coze's JWT OAuth app, instead of a token.",
    "coze_jwt_key_id": "The id of that app's public key.",
    "coze_jwt_private_key_file": "A file with that app's private key.",
    "coze_jwt_sessions": "`user` asks for a token for each user, so that Coze keeps their histories apart.",
    "tenants_file": "A file with a table for each shopId: its own Coze credentials, its bots, its limit.",
    "host": "Where to listen. A host that other machines can reach also needs `auth`.",
    "port": "The port to listen on.",
    "admin_port": "A separate port for /metrics and /debug. Without one they are on the main port, on loopback only.",
    "admin_host": "The host for that port.",
    "data_dir": "The folder of the databases, on a local disk.",
    "database_url": "A PostgreSQL database for conversations, turns, messages and the log. Several nodes can share it.",
    "bus_url": "With PostgreSQL: Redis, so text reaches other nodes sooner. With SQLite: memory://, a log for one run.",
    "node_name": "This node's name in logs and metrics, where there are several.",
    "use_sse_streaming": "Anything but true removes the streaming routes; the older way and long-poll remain.",
    "upstream_proxy": "A proxy through which the gateway reaches Coze.",
    "upstream_connect_timeout": "How long a connection to Coze may take.",
    "upstream_idle_timeout": "After this long without a byte Coze's stream counts as lost.",
    "turn_timeout": "The longest a whole turn may take.",
    "send_timeout": "A client that has something to read and accepts nothing for this long is disconnected.",
    "upstream_retries": "Further attempts for a request that Coze did not accept.",
    "retry_uncertain": "Whether a message is sent again when nobody knows whether Coze has it. It may run twice.",
    "heartbeat_interval": "The time between heartbeats to a client. A proxy's read time-out must be longer.",
    "retry_ms": "The reconnect delay advised to clients, in milliseconds; spread by half.",
    "abandon_seconds": "With onDisconnect=cancel: how long after its last listener left a turn is cancelled.",
    "retention_seconds": "How long events can be resumed after their turn ended.",
    "drain_seconds": "The longest a stop waits for running turns.",
    "drain_pause_seconds": "How long a stopping gateway still accepts work while /readyz already answers 503.",
    "max_connections": "How many connections there may be in all; beyond: 503.",
    "max_connections_per_user": "How many connections each user may have; beyond: 429.",
    "turns_per_minute": "How many turns each user may start per minute; beyond: 429.",
    "max_unsent_bytes": "Bytes that may wait in memory to be read; beyond, clients that read nothing are cut.",
    "max_body_bytes": "The largest body of a request; beyond: 413.",
    "max_message_chars": "The longest message; beyond: 422.",
    "max_upload_bytes": "The largest file that is passed on to Coze; beyond: 413. Coze itself takes 512 MiB.",
    "allowed_origins": "Origins of pages on other hosts that may use the gateway.",
    "allowed_hosts": "Names accepted in Host. If none is set: on loopback only loopback's names, otherwise any name.",
    "auth": "How callers prove who they are. `none` on a host that other machines can reach needs `allow_anonymous`.",
    "allow_anonymous": "Lets anybody who can reach the gateway use it.",
    "doors": "Which doors for clients of other APIs are open: `coze` speaks Coze's own API, for apps on Coze's SDKs.",
    "door_token": "The token that callers of that door send. `caller`: their own for Coze; `gateway`: as `auth` says.",
    "api_keys_file": "Keys of trusted backends; `coze-gateway make-key NAME` makes one.",
    "jwt_secret_file": "A file with the secret that JWTs are signed with (HS256).",
    "jwks_file": "Or a file with the public keys (RS256, ES256, EdDSA).",
    "jwt_audience": "What a JWT's `aud` must name.",
    "jwt_issuer": "What a JWT's `iss` must be.",
    "simulator_first_ms": "The simulated Coze's pace: the time to the first piece.",
    "simulator_rate": "The simulated Coze's pace: pieces per second.",
    "media_hosts": "Hosts whose pictures and media the page loads without a click.",
    "log_level": "The lowest level that is logged.",
    "log_format": "The format of the log.",
    "log_upstream_bytes": "Logs what Coze sends, with secrets masked. The log then shows what users wrote.",
}
"""What each setting means, in a sentence."""


def sample() -> str:
    """The file, as TOML. Every setting is commented out, so each line shows the default that holds without it."""
    lines = [
        "# The Coze stream gateway's settings: coze-gateway serve --config THIS-FILE",
        "# Each has its default here. Remove the # from those you change; flags and the environment take precedence.",
    ]
    for field, info in Settings.model_fields.items():
        text = f"{MEANINGS[field]} Allowed: {info.description}."
        lines += ["", *textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)]
        default = "none" if field == "auth" else "" if info.default is None else info.default
        lines.append(f"#{field} = {toml(default)}  # {env_name(field)}")
    return "\n".join(lines) + "\n"
