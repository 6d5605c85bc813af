"""What each setting is for, in words: the comments of written files and the texts of the JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast, get_args, get_origin

from actors.config.settings import Settings, fields_of

SECTIONS: Final = {
    "redis": "Where the state lives.",
    "streams": "How entries are packed, leased and kept.",
    "broadcaster": "The WebSocket server.",
    "forwarder": "The way to a master service; with neither url nor demo nothing is forwarded.",
    "forwarder.venues.*": "What of one venue goes to the master; all that it gives unless said here.",
    "master": "The reference master, which stores what collectors send.",
    "simulator": "The local venues of a demo.",
    "log": "What is logged.",
    "venues.*": "One venue: what is wanted of it, and how.",
}
TEXTS: Final = {
    "mode": "live: real venues. demo: the simulator. The two never share a Redis prefix.",
    "egress": "Name of this host's public address: hosts behind one address share its request budgets.",
    "redis.url": "redis:// rediss:// unix:// redis+sentinel://h1,h2/master redis+cluster://h1,h2",
    "redis.url_file": "A file with the URL, for one that holds a password; REDIS_URL comes first.",
    "redis.port": "Of the server that Tapeline starts itself where no URL is given.",
    "redis.prefix": "What every key begins with.",
    "redis.pubsub_prefix": "What every pub/sub channel begins with.",
    "streams.lease_ttl_s": "How soon another instance takes over from a dead one.",
    "streams.linger_ms": "How long the connector waits for more frames before it writes.",
    "streams.batch_frames": "Frames in one entry at most.",
    "streams.batch_bytes": "Bytes in one entry at most.",
    "streams.retention_s": "How long a stream keeps what a registered reader has read already.",
    "streams.retention_bytes": "What a stream holds at most, read or not.",
    "broadcaster.host": "Address to listen on.",
    "broadcaster.port": "Instance n listens on port + n - 1.",
    "broadcaster.reuse_port": "All instances share the port.",
    "broadcaster.max_clients": "Connections at most.",
    "broadcaster.max_clients_per_address": "Connections from one address at most.",
    "broadcaster.max_message_bytes": "Longest message a client may send.",
    "broadcaster.max_messages_per_s": "Messages a client may send.",
    "broadcaster.max_subscriptions": "Subscriptions of one client of /v1 at most.",
    "broadcaster.heartbeat_s": "How often a client of /v1 hears that all is well.",
    "broadcaster.slow_client_bytes": "What may wait in a client's buffer before it counts as slow.",
    "broadcaster.slow_client_deadline_s": "How long a client that reads nothing is kept.",
    "broadcaster.origins": "Browsers' origins that may connect; any unless given.",
    "broadcaster.token_file": "A file with the bearer token that clients must present.",
    "broadcaster.tls_certificate": "Certificate chain (PEM); with tls_key.",
    "broadcaster.tls_key": "Private key (PEM); with tls_certificate.",
    "forwarder.enabled": "Whether to forward at all.",
    "forwarder.url": "Address of the master.",
    "forwarder.key_file": "A file with the key to log in with; or TAPELINE_FORWARDER__KEY.",
    "forwarder.protocol": "ftsobest: any master of FTSOBest's collector. acked: one that answers.",
    "forwarder.connections": "Sockets to the master.",
    "forwarder.depth": "Levels of a side in a book.",
    "forwarder.update_interval_ms": "Time between two books of a symbol.",
    "forwarder.demo": "No socket: every message goes to standard output.",
    "forwarder.debug_log": "A [METRICS] line every ten seconds.",
    "forwarder.venues.*.trades": "Symbols whose trades are forwarded; all unless given.",
    "forwarder.venues.*.books": "Symbols whose books are forwarded; all unless given.",
    "forwarder.venues.*.tickers": "Symbols whose 24 h summaries are forwarded; all unless given.",
    "forwarder.venues.*.depth": "Levels of a side in a book; the forwarder's unless given.",
    "forwarder.venues.*.update_interval_ms": "Time between two books; the forwarder's unless given.",
    "master.enabled": "Whether to run it here.",
    "master.host": "Address to listen on.",
    "master.port": "Port to listen on.",
    "master.keys_file": "A file with the keys that collectors may log in with, one a line.",
    "master.folder": "Where it stores; .tapeline/<mode>/master unless given.",
    "master.fsync": "What an acknowledgement promises: always: on the disk; everysec; no.",
    "master.rotate_bytes": "A file is closed at this size,",
    "master.rotate_s": "or at this age.",
    "master.keep_bytes": "What is kept of each stream, in whole files; everything unless given.",
    "master.max_connections": "Collectors' sockets at most.",
    "master.max_message_bytes": "Longest message.",
    "master.max_messages_per_s": "Messages of one socket.",
    "master.tls_certificate": "Certificate chain (PEM); with tls_key.",
    "master.tls_key": "Private key (PEM); with tls_certificate.",
    "simulator.host": "Address to listen on.",
    "simulator.port": "Port to listen on.",
    "simulator.seed": "The same seed gives the same market.",
    "simulator.events_per_s": "How fast the market is; its own pace unless given.",
    "simulator.venues": "Which venues to simulate; those configured unless given.",
    "simulator.replay": "Serve the frames of this recording instead of the market.",
    "log.level": "debug, info, warning or error.",
    "log.pretty": "For people rather than programs; where standard error is a terminal unless given.",
    "venues.*.enabled": "false: as if it were not here.",
    "venues.*.symbols": "BTC-USDT spot, BTC-USDT-PERP perpetual; tapeline symbols lists a venue's.",
    "venues.*.channels": "trade book l1 ticker liquidation open_interest funding; all it has unless given.",
    "venues.*.only": "Channels that are wanted of some symbols only: only.book = [...].",
    "venues.*.shards": "Partitions to share between instances; not to be changed on data that is there.",
    "venues.*.redundancy": "2: two connections carry the same, and one may die without a gap.",
    "venues.*.symbols_per_connection": "Fewer on each connection than the venue allows.",
    "venues.*.audit_s": "Time between two audits of a book by REST, where nothing else proves it; 0: never.",
    "venues.*.ws_url": "Another WebSocket address: a simulator or a proxy.",
    "venues.*.rest_url": "Another REST address.",
}
SECRET: Final = frozenset({"broadcaster.token", "forwarder.key", "master.keys"})  # never in a file


def settings(model: object = Settings, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting, ``*`` for a name of the user's."""
    fields = fields_of(model)
    if fields is not None:
        for name, annotation in fields.items():
            yield from settings(annotation, (*path, name))
    elif get_origin(model) is dict and fields_of(get_args(model)[1]) is not None:
        yield from settings(get_args(model)[1], (*path, "*"))
    else:
        yield path


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file."""
    document = Settings.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Tapeline's configuration"
    definitions = cast("dict[str, dict[str, Any]]", document["$defs"])
    for definition in (document, *definitions.values()):
        definition.pop("description", None)  # docstrings speak to programmers
    _describe(document, definitions, ())
    return document


def _describe(node: dict[str, Any], definitions: Mapping[str, dict[str, Any]], path: tuple[str, ...]) -> None:
    """Write the texts into ``node``, whose place is ``path``; take out what may not stand in a file."""
    properties = cast("dict[str, dict[str, Any]]", node.get("properties", {}))
    for name, of in [*properties.items()]:
        at = (*path, name)
        key = ".".join(at)
        if key in SECRET:
            del properties[name]
            continue
        _without_null(of)
        if key in TEXTS:
            of["description"] = TEXTS[key]
        for word in ("title", "format", "writeOnly"):
            of.pop(word, None)
        _follow(of, definitions, at)
        more: object = of.get("additionalProperties")
        if isinstance(more, dict):
            _follow(cast("dict[str, Any]", more), definitions, (*at, "*"))


def _without_null(node: dict[str, Any]) -> None:
    """Leave out what stands for "not given": TOML has no word for it."""
    options = [option for option in node.pop("anyOf", ()) if option != {"type": "null"}]
    if options:
        node.update(options[0])
    if "default" in node and node["default"] is None:
        del node["default"]


def _follow(node: dict[str, Any], definitions: Mapping[str, dict[str, Any]], path: tuple[str, ...]) -> None:
    reference: object = node.get("$ref")
    if isinstance(reference, str):
        text = SECTIONS.get(".".join(path))
        if text is not None:
            node["description"] = text
        node.pop("default", None)
        definition = definitions[reference.rpartition("/")[2]]
        definition.pop("title", None)
        _describe(definition, definitions, path)
