"""A sample configuration file: every setting with its default, what it means and what is allowed."""

import textwrap
from collections.abc import Mapping

from gateway.config.loading import toml
from gateway.config.settings import NOT_BUILT_YET, Settings, env_name

MEANINGS: Mapping[str, str] = {
    "coze_api_token": "Coze's access token. Without one the simulated Coze answers.",
    "coze_api_base": "Coze's base URL; https://api.coze.com for coze.com.",
    "coze_jwt_app_id": "Coze's JWT OAuth app, instead of a token.",
    "coze_jwt_key_id": "The id of that app's public key.",
    "coze_jwt_private_key_file": "That app's private key.",
    "tenants_file": "For each shopId, its own Coze credentials and allowed bots.",
    "host": "Where to listen. Beyond this machine it needs `auth`, too.",
    "port": "The port to listen on.",
    "admin_port": "A port of its own for /metrics and /debug. Without one they are on the main port, on loopback only.",
    "admin_host": "Where that port listens.",
    "data_dir": "The folder of the databases, on a local disk.",
    "database_url": "Conversations, turns and messages.",
    "bus_url": "The event log. memory:// keeps nothing over a restart.",
    "use_sse_streaming": "Anything but true takes the streaming routes away; the older way and long-poll stay.",
    "upstream_proxy": "The way to Coze through a proxy.",
    "upstream_connect_timeout": "How long a connection to Coze may take.",
    "upstream_idle_timeout": "After so long without a byte Coze's stream counts as lost, and its record is asked.",
    "turn_timeout": "The longest a whole turn may take.",
    "send_timeout": "A client that has something to read and accepts nothing for so long is cut.",
    "upstream_retries": "Tries after the first for a request that Coze did not take.",
    "retry_uncertain": "Whether a message is sent again when nobody knows whether Coze has it. It may run twice.",
    "heartbeat_interval": "Between heartbeats to a client. A proxy's read time-out must be longer.",
    "retry_ms": "The reconnect delay advised to clients, in milliseconds; spread by half.",
    "abandon_seconds": "With onDisconnect=cancel: how long the last listener may be gone.",
    "retention_seconds": "How long events can be resumed after their turn ended.",
    "drain_seconds": "The longest a stop waits for running turns.",
    "drain_pause_seconds": "How long a stopping gateway still takes work while /readyz is 503 already.",
    "max_connections": "Beyond: 503.",
    "max_connections_per_user": "Beyond: 429.",
    "turns_per_minute": "For each user; beyond: 429.",
    "max_unsent_bytes": "That wait in memory, in all, for clients to read them; beyond, who reads nothing is cut.",
    "max_body_bytes": "Of a request; beyond: 413.",
    "max_message_chars": "Of a message; beyond: 422.",
    "allowed_origins": "Origins of pages on other hosts that may use the gateway.",
    "allowed_hosts": "Names accepted in Host. None: loopback's names on loopback, else any.",
    "auth": "Who may ask. `none` beyond this machine needs `allow_anonymous`.",
    "allow_anonymous": "Lets anybody ask who can reach the gateway.",
    "api_keys_file": "Keys of trusted backends; `coze-gateway make-key NAME` makes one.",
    "jwt_secret_file": "The secret that JWTs are signed with (HS256).",
    "jwks_file": "Or the public keys (RS256, ES256, EdDSA).",
    "jwt_audience": "What a JWT's `aud` must name.",
    "jwt_issuer": "What a JWT's `iss` must be.",
    "simulator_first_ms": "The simulated Coze's pace: to the first piece.",
    "simulator_rate": "The simulated Coze's pace: pieces a second.",
    "media_hosts": "Hosts whose pictures and media the page loads without a click.",
    "log_level": "What is logged.",
    "log_format": "How it is logged.",
    "log_upstream_bytes": "Logs what Coze sends, secrets masked. It shows what users wrote.",
}
"""A sentence for each setting."""


def sample() -> str:
    """The file, as TOML. Every setting is commented out, so that it says what holds without it."""
    lines = [
        "# The Coze stream gateway's settings: coze-gateway serve --config THIS-FILE",
        "# Each has its default here. Take the # away from what you change; flags and the environment come first.",
    ]
    for field, info in Settings.model_fields.items():
        text = f"{MEANINGS[field]} Allowed: {info.description}."
        if NOT_BUILT_YET.get(field) == "":
            text = f"{MEANINGS[field]} Not built yet."
        lines += ["", *textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)]
        default = "none" if field == "auth" else "" if info.default is None else info.default
        lines.append(f"#{field} = {toml(default)}  # {env_name(field)}")
    return "\n".join(lines) + "\n"
