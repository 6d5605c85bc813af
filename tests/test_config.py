"""The configuration: all faults at once, each with its place and remedy, and no secret in any message."""

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from actors.cli.plan import schema_text
from actors.config import ConfigError, Settings, describe, load
from actors.config.settings import ForwardVenueSettings, VenueSettings
from actors.config.writer import toml
from actors.venues import VENUES

ROOT = Path(__file__).resolve().parents[1]
CANARY = "canary-7f3a"
GOOD = """
mode = "live"

[venues.binance]
symbols = ["BTC/USDT", "eth-usdt"]
"""


def loaded(tmp_path: Path, text: str = GOOD, **env: str) -> Settings:
    file = tmp_path / "tapeline.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, env)


def faults(tmp_path: Path, text: str = GOOD, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, **env)
    return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("name", ["demo.toml", "tapeline.toml", "ftso.toml"])
def test_the_shipped_configurations_are_good(name: str):
    assert load(ROOT / "config" / name, {}).venues


def test_the_live_configuration_shows_every_key_with_its_default_and_what_it_is_for():
    text = (ROOT / "config" / "tapeline.toml").read_text()
    opened = re.sub(r"^# (?=[a-z_.]+ = )", "", text, flags=re.MULTILINE)
    settings = Settings.model_validate(tomllib.loads(opened)).model_dump()
    bare = VenueSettings(symbols=["BTC-USDT"])
    default = Settings(mode="live", venues={"binance": bare, "coinbase": bare}).model_dump()
    default["forwarder"]["venues"]["binance"] = ForwardVenueSettings().model_dump()
    for path in describe.settings():
        key = ".".join(path)
        if key in describe.SECRET:
            continue
        assert describe.TEXTS[key] in text, key
        assert re.search(rf"^(# )?{path[-1]}( |\.\w+ )= ", text, re.MULTILINE), key
        shown, usual = settings, default
        example = "coinbase" if path[-1] == "audit_s" else "binance"
        for part in path:
            name = example if part == "*" else part
            shown, usual = shown[name], usual[name]
        if usual not in (None, {}) and path[-1] != "symbols":
            assert shown == usual, key
        else:
            assert shown, key  # an example


def test_the_live_configuration_has_every_venue():
    assert {*load(ROOT / "config" / "tapeline.toml", {}).venues} == {*VENUES}


def test_the_ftso_set_quotes_62_feeds_in_dollars_and_what_converts_the_rest():
    venues = load(ROOT / "config" / "ftso.toml", {}).venues
    quoted = [symbol.split("-") for venue in venues.values() for symbol in venue.symbols]
    assert len({base for base, _ in quoted}) == 62
    assert {quote for _, quote in quoted} == {"USD", "USDT"}
    assert [name for name, venue in venues.items() if "USDT-USD" in venue.symbols] == [
        "coinbase",
        "kraken",
        "bitstamp",
        "bitfinex",
    ]


def test_symbols_are_read_in_any_spelling(tmp_path: Path):
    assert loaded(tmp_path).venues["binance"].symbols == ["BTC-USDT", "ETH-USDT"]


def test_every_fault_is_told_at_once_with_line_key_and_remedy(tmp_path: Path):
    text = """
mode = "dmo"
egres = "x"

[broadcaster]
port = 70000
max_clint = 5

[venues.binanc]
symbols = ["BTC-USDT"]

[venues.binance]
symbols = ["BTC/USDT", "btc-usdt", "BTCUSDT", "BTC-USDT-PERP"]
channels = ["trade", "liquidation", "bok"]
ws_url = "http://x"
shards = 0
"""
    told = faults(tmp_path, text, TAPELINE_STREAMS__LINGER_MS="soon", TAPELINE_BROADCASTER_PORT="1")
    for line in (
        "tapeline.toml:2: mode: must be 'demo' or 'live', not 'dmo'; did you mean \"demo\"?",
        'tapeline.toml:3: egres: no such setting; did you mean "egress"?',
        "tapeline.toml:6: broadcaster.port: must be at most 65535, not 70000",
        'tapeline.toml:7: broadcaster.max_clint: no such setting; did you mean "max_clients"?',
        'tapeline.toml:9: venues.binanc: no such venue; did you mean "binance"?',
        'tapeline.toml:13: venues.binance.symbols: "BTC-USDT" is named twice',
        'tapeline.toml:13: venues.binance.symbols: "BTCUSDT" is no symbol: write BASE-QUOTE, such as',
        'tapeline.toml:13: venues.binance.symbols: "BTC-USDT-PERP" is no spot symbol',
        'tapeline.toml:14: venues.binance.channels: binance has no channel "liquidation"',
        'did you mean "book"?',
        "tapeline.toml:15: venues.binance.ws_url: must begin with ws:// or wss://",
        "tapeline.toml:16: venues.binance.shards: must be at least 1, not 0",
        "TAPELINE_STREAMS__LINGER_MS: streams.linger_ms: must be a number",
        'broadcaster_port: no setting has this name; did you mean "TAPELINE_BROADCASTER__PORT"?',
    ):
        assert any(line in fault for fault in told), line
    assert len(told) == 14


@pytest.mark.parametrize(
    ("venue", "why"),
    [
        ("binance", "they are proved by their sequence"),
        ("kraken", "they are proved by their checksum"),
        ("bitrue", "each frame is a whole book"),
    ],
)
def test_audits_are_of_books_that_nothing_else_proves(tmp_path: Path, venue: str, why: str):
    text = f'mode = "live"\n[venues.{venue}]\nsymbols = ["BTC-USDT"]\naudit_s = 60\n'
    assert faults(tmp_path, text) == [
        f"tapeline.toml:4: venues.{venue}.audit_s: books of {venue} are not audited: {why}"
    ]


def test_audits_are_not_so_often_that_each_meets_the_next(tmp_path: Path):
    text = 'mode = "live"\n[venues.coinbase]\nsymbols = ["BTC-USD"]\naudit_s = 9\n'
    assert faults(tmp_path, text) == [
        "tapeline.toml:4: venues.coinbase.audit_s: must be at least 10, or 0 for never, not 9"
    ]
    for often in ("0", "10"):
        assert loaded(tmp_path, text.replace("9", often)).venues["coinbase"].audit_s == int(often)


def test_audits_are_as_often_as_a_user_says_or_never():
    rule = VENUES["coinbase"].book_rule
    assert rule.audited(None) is rule
    assert (rule.audited(30).audit_s, rule.audited(30).verified) == (30, "audit")
    assert (rule.audited(0).audit_s, rule.audited(0).verified) == (None, "none")
    assert VENUES["binance"].book_rule.audited(0) is VENUES["binance"].book_rule


def test_what_a_wrong_type_leaves_is_judged_all_the_same(tmp_path: Path):
    text = """
mode = "demo"
[redis]
port = "x"
[broadcaster]
port = 6391
heartbeat_s = "x"
[master]
tls_key = "x"
[forwarder]
url = "ws://10.0.0.1:8766"
[forwarder.venues.okx]
books = ["SOL-USDT"]
[forwarder.venues.kraken]
[venues.okx]
symbols = 3
[venues.binance]
symbols = ["BTC-USDT"]
ws_url = "ws://127.0.0.1:x"
rest_url = "http://127.0.0.1:9700/binance"
only.book = ["SOL-USDT"]
"""
    told = [fault.partition(": ")[2] for fault in faults(tmp_path, text)]
    expected = {
        "redis.port: must be a whole number, not 'x'",
        "broadcaster.heartbeat_s: must be a number, not 'x'",
        "master: tls_certificate and tls_key go together",
        'forwarder.url: "10.0.0.1" is not this machine',
        "forwarder.venues.kraken: no such venue is configured",
        "venues.okx.symbols: must be a list",
        "venues.binance.ws_url: 'ws://127.0.0.1:x' has no port that can be",
        'venues.binance.only.book: "SOL-USDT" is not among',
    }
    for says in expected:
        assert any(fault.startswith(says) for fault in told), says
    assert len(told) == len(expected), told  # the port of the wrong one clashes with nobody's


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ws://h:abc", "has no port that can be: write a number from 1 to 65535"),
        ("ws://h:99999", "has no port that can be"),
        ("ws://h:0", "has no port that can be"),
        ("ws://:9700", "names no host: write one"),
        ("ws://a..b", "names no host"),
        ("ws://[::1", "has a broken host: write an IPv6 address as [::1]"),
        ("ws://h/a b", "holds a blank: take it out"),
        ("ws:///x", "must begin with ws:// or wss:// and name a host"),
    ],
)
def test_an_address_that_nobody_can_dial_is_refused(tmp_path: Path, url: str, says: str):
    [fault] = faults(tmp_path, f'{GOOD}ws_url = "{url}"\n')
    assert "tapeline.toml:6: venues.binance.ws_url: " in fault
    assert says in fault
    told = faults(tmp_path, f'{GOOD}rest_url = "{url.replace("ws", "http")}"\n[forwarder]\nurl = "{url}"\n')
    assert [key for fault in told for key in ("rest_url", "forwarder.url") if key in fault] == [
        "forwarder.url",
        "rest_url",
    ]


@pytest.mark.parametrize("url", ["ws://[::1]:9700", "wss://münchen.example/x", "ws://h", "ws://h:1/?a=%20"])
def test_an_address_that_can_be_dialed_is_taken(tmp_path: Path, url: str):
    assert loaded(tmp_path, f'{GOOD}ws_url = "{url}"\n').venues["binance"].ws_url == url


@pytest.mark.parametrize(
    "url", [f"redis://:{CANARY}@h:abc/0", f"redis://:{CANARY}@h:0", f"rediss://:{CANARY}@[::1"]
)
def test_a_redis_that_nobody_can_dial_is_refused_without_its_password(tmp_path: Path, url: str):
    [fault] = faults(tmp_path, REDIS_URL=url)
    assert "has a host or a port that cannot be: write redis://host:port/0" in fault
    assert CANARY not in fault


@pytest.mark.parametrize("number", ["inf", "nan", "-inf"])
def test_a_number_without_end_is_refused(tmp_path: Path, number: str):
    table = f"[streams]\nretention_s = {number}\n[simulator]\nevents_per_s = {number}\n"
    told = faults(tmp_path, GOOD + table)
    assert [fault.partition(": ")[2] for fault in told] == [
        f"streams.retention_s: must be a finite number, not {number}",
        f"simulator.events_per_s: must be a finite number, not {number}",
    ]


def test_a_number_beyond_reason_is_refused(tmp_path: Path):
    words = {
        "[streams]": ("retention_s = 1e308", "retention_bytes = 9223372036854775808"),
        "[broadcaster]": ("heartbeat_s = 1e300", "max_clients = 99999999999", "slow_client_bytes = 1e18"),
        "[master]": ("max_connections = 1e30", "rotate_s = 1e9", "keep_bytes = 10000000000000000000"),
        "[simulator]": ("seed = 99999999999999999999", "events_per_s = 1e300"),
        "[redis]": (f'prefix = "{"x" * 101}"',),
    }
    table = "\n".join(line for head, lines in words.items() for line in (head, *lines))
    told = [fault.partition(": ")[2] for fault in faults(tmp_path, GOOD + table)]
    assert [fault.partition(",")[0] for fault in told] == [
        "redis.prefix: must have at most 100 characters",
        "streams.retention_s: must be at most 31622400.0",
        "streams.retention_bytes: must be at most 1125899906842624",
        "broadcaster.max_clients: must be at most 1000000",
        "broadcaster.heartbeat_s: must be at most 31622400.0",
        "broadcaster.slow_client_bytes: must be at most 1073741824",
        "master.rotate_s: must be at most 31622400.0",
        "master.keep_bytes: must be at most 1125899906842624",
        "master.max_connections: must be a smaller number",
        "simulator.seed: must be at most 9223372036854775807",
        "simulator.events_per_s: must be at most 1000000.0",
    ]


def test_neither_true_nor_false_is_a_number(tmp_path: Path):
    table = "[broadcaster]\nport = true\nreuse_port = true\n[simulator]\nevents_per_s = false\n"
    assert [fault.partition(": ")[2] for fault in faults(tmp_path, GOOD + table)] == [
        "broadcaster.port: must be a whole number, not True",
        "simulator.events_per_s: must be a number, not False",
    ]


def test_channels_that_give_nothing_of_a_spot_symbol_are_refused(tmp_path: Path):
    okx = '\n[venues.okx]\nsymbols = ["BTC-USDT"]\nchannels = ["liquidation", "funding"]\n'
    [fault] = faults(tmp_path, GOOD + okx)
    assert fault == (
        "tapeline.toml:9: venues.okx.channels: a spot symbol has no funding, liquidation: name one of book, "
        "l1, ticker, trade, or a -PERP symbol"
    )
    assert loaded(tmp_path, GOOD + okx.replace("BTC-USDT", "BTC-USDT-PERP"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("eth-usdt", "BTC-USDT-SWAP"), "write BASE-QUOTE, such as BTC-USDT-PERP"),
        (GOOD.replace("eth-usdt", "ETH-USDT-PERP"), "binance is a spot venue: write ETH-USDT"),
        (GOOD.replace("binance", "binance_usdm"), "binance_usdm is a perpetual venue: write BTC-USDT-PERP"),
        (GOOD.replace('"BTC/USDT", "eth-usdt"', ""), ': write symbols = ["BTC-USDT"], or enabled = false'),
        (f"{GOOD}channels = []", "must name at least 1: leave it out for all that the venue has"),
        (GOOD.replace("binance", "kraken") + 'channels = ["l1"]', "; its l1 is the top of its book: name"),
        (f'{GOOD}[redis]\nprefix = "a b"', "redis.prefix: may not hold { } or a blank, as 'a b' does"),
        (f'{GOOD}[redis]\nprefix = ""', "redis.prefix: must not be empty"),
        (f"{GOOD}[redis]\nurl_file = 7", "redis.url_file: must be the path of a file, in quotes, not 7"),
        (f"{GOOD}only.bok = []", "venues.binance.only.bok: must be 'trade', 'book'"),
        (f'{GOOD}"\\u001b[31mx\\n" = 1', "venues.binance.\\x1b[31mx\\n: no such setting"),
        (f'{GOOD}[simulator]\nvenues = ["binanse"]', 'no such venue as "binanse"; did you mean "binance"?'),
    ],
)  # fmt: skip
def test_what_to_write_instead_is_told(tmp_path: Path, text: str, says: str):
    assert any(says in fault for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_the_environment_overrides_the_file(tmp_path: Path):
    settings = loaded(
        tmp_path,
        TAPELINE_MODE="live",
        TAPELINE_BROADCASTER__PORT="9002",
        TAPELINE_BROADCASTER__REUSE_PORT="true",
        TAPELINE_BROADCASTER__ORIGINS='["https://a", "https://b"]',
        TAPELINE_VENUES__BINANCE__SYMBOLS="SOL-USDT, XRP/USDT",
        TAPELINE_VENUES__BINANCE__REDUNDANCY="2",
        TAPELINE_SIMULATOR__EVENTS_PER_S="12.5",
    )
    assert settings.broadcaster.port == 9002
    assert settings.broadcaster.reuse_port
    assert settings.broadcaster.origins == ["https://a", "https://b"]
    assert settings.venues["binance"].symbols == ["SOL-USDT", "XRP-USDT"]
    assert settings.venues["binance"].redundancy == 2
    assert settings.simulator.events_per_s == 12.5


def test_the_port_offset_shifts_every_port_and_the_simulators_urls():
    settings = load(ROOT / "config" / "demo.toml", {"TAPELINE_PORT_OFFSET": "100"})
    assert (settings.redis.port, settings.broadcaster.port, settings.simulator.port) == (6491, 9101, 9800)
    venue = settings.venues["binance"]
    assert (venue.ws_url, venue.rest_url) == ("ws://127.0.0.1:9800/binance", "http://127.0.0.1:9800/binance")


@pytest.mark.parametrize("offset", ["-1", "x", "60000"])
def test_a_port_offset_out_of_range_is_told(tmp_path: Path, offset: str):
    assert any("TAPELINE_PORT_OFFSET" in fault for fault in faults(tmp_path, TAPELINE_PORT_OFFSET=offset))


def test_the_environment_chooses_among_the_venues_that_are_configured():
    settings = load(ROOT / "config" / "demo.toml", {"TAPELINE_VENUES": "kraken, binance"})
    assert {name for name, venue in settings.venues.items() if venue.enabled} == {"kraken", "binance"}


def test_a_chosen_venue_that_is_not_configured_is_told(tmp_path: Path):
    (fault,) = faults(tmp_path, TAPELINE_VENUES="binance,binanc")
    assert fault.startswith(
        'environment: TAPELINE_VENUES: "binanc" is not configured; did you mean "binance"'
    )
    (fault,) = faults(tmp_path, DEMO_VENUES="binanc,binance", TAPELINE_VENUES="binanc,binance")
    assert fault.startswith('environment: DEMO_VENUES: "binanc" is not configured')


@pytest.mark.parametrize("names", ["", " , "])
def test_a_choice_of_no_venue_is_told(tmp_path: Path, names: str):
    told = faults(tmp_path, TAPELINE_VENUES=names, DEMO_VENUES=names, TAPELINE_MASTER__ENABLED="true")
    assert told[0] == (
        "environment: DEMO_VENUES: names no venue: name some of those configured (binance), or leave it out"
    )


def test_two_servers_on_one_port_are_told(tmp_path: Path):
    assert any(
        "6391 is" in fault and ".port too" in fault
        for fault in faults(tmp_path, TAPELINE_BROADCASTER__PORT="6391")
    )


def test_a_demo_that_would_reach_a_real_venue_is_refused(tmp_path: Path):
    demo = GOOD.replace("live", "demo")
    assert "needs ws_url and rest_url in a demo" in faults(tmp_path, demo)[0]
    [fault] = faults(tmp_path, f'{demo}ws_url = "wss://venue.example"\nrest_url = "http://127.0.0.1:9700"\n')
    assert fault == (
        'tapeline.toml:6: venues.binance.ws_url: "venue.example" is not this machine: a demo takes simulated '
        "venues on 127.0.0.1 only, so that simulated and real data never meet"
    )


def test_a_missing_file_names_those_that_are_there():
    with pytest.raises(ConfigError, match=r'did you mean "config/demo\.toml"'):
        load(Path("config/dmo.toml"), {})


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path):
    assert faults(tmp_path, "mode = \n")[0].startswith("tapeline.toml:1: not TOML: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"x = {'[' * 20_000}{']' * 20_000}", "nest too deep"),
        (f"x = {'{a = ' * 3000}1{'}' * 3000}", "nest too deep"),
        (f"a{'.a' * 20_000} = 1", "nest too deep"),
        (f"x = [{{a{'.a' * 20_000} = 1}}]", "nest too deep"),
        (f"x = {'9' * 5000}", "holds a number that is too long to be read"),
    ],
)
def test_toml_that_its_reader_cannot_hold_is_told(tmp_path: Path, text: str, why: str):
    [fault] = faults(tmp_path, text)
    assert fault.startswith("tapeline.toml: ")
    assert why in fault


@pytest.mark.parametrize(
    "text", ["", "mode = 3", "venues = 3", "[venues]\nbinance = 3", '[[venues]]\nmode = "x"']
)
def test_any_shape_of_file_is_refused_without_a_traceback(tmp_path: Path, text: str):
    assert faults(tmp_path, text)


def test_a_secret_may_not_stand_in_the_file_and_is_never_shown(tmp_path: Path):
    text = f"""{GOOD}
[broadcaster]
token = "{CANARY}"
[redis]
url = "redis://:{CANARY}@h/0"
"""
    told = faults(tmp_path, text)
    assert any("broadcaster.token: is a secret" in fault for fault in told)
    assert any("redis.url: holds a password" in fault for fault in told)
    assert CANARY not in "\n".join(told)


def test_a_broken_redis_url_is_refused_without_its_password(tmp_path: Path):
    told = faults(tmp_path, REDIS_URL=f"http://:{CANARY}@h/0")
    assert "must begin with one of redis://" in told[0]
    assert CANARY not in "\n".join(told)


def test_secrets_come_from_a_file_or_the_environment_and_hide_in_prints(tmp_path: Path):
    secret = tmp_path / "token"
    secret.write_text(f"{CANARY}\n")
    settings = loaded(
        tmp_path,
        f'{GOOD}\n[broadcaster]\ntoken_file = "{secret}"\n',
        REDIS_URL=f"redis://:{CANARY}-2@127.0.0.1:1/0",
    )
    assert settings.broadcaster.token is not None
    assert settings.broadcaster.token.get_secret_value() == CANARY
    assert settings.secrets() == [CANARY, f"{CANARY}-2"]
    assert CANARY not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_secrets_file_that_is_not_there_is_told(tmp_path: Path):
    assert "cannot be read" in faults(tmp_path, f'{GOOD}\n[broadcaster]\ntoken_file = "/nowhere/x"\n')[0]


def test_the_master_s_port_and_the_way_to_it_shift_together(tmp_path: Path):
    text = f'{GOOD}\n[forwarder]\nurl = "ws://127.0.0.1:8766/in"\n'
    settings = loaded(tmp_path, text, TAPELINE_PORT_OFFSET="100", TAPELINE_FORWARDER__KEY=CANARY)
    assert (settings.master.port, settings.forwarder.url) == (8866, "ws://127.0.0.1:8866/in")
    elsewhere = text.replace("127.0.0.1", "10.0.0.1")
    settings = loaded(tmp_path, elsewhere, TAPELINE_PORT_OFFSET="100", TAPELINE_FORWARDER__KEY=CANARY)
    assert settings.forwarder.url == "ws://10.0.0.1:8766/in"


def test_keys_come_from_files_or_the_environment_only(tmp_path: Path):
    told = faults(tmp_path, f'{GOOD}\n[forwarder]\nkey = "{CANARY}"\n[master]\nkeys = ["{CANARY}"]\n')
    assert any("forwarder.key: is a secret" in fault for fault in told)
    assert any("master.keys: is a secret" in fault for fault in told)
    assert CANARY not in "".join(told)
    keys = tmp_path / "keys"
    keys.write_text(f"{CANARY}\nsecond\n")
    settings = loaded(tmp_path, f'{GOOD}\n[master]\nenabled = true\nkeys_file = "{keys}"\n')
    assert settings.master_keys() == [CANARY, "second"]
    assert {CANARY, "second"} <= {*settings.secrets()}
    settings = loaded(tmp_path, TAPELINE_MASTER__KEYS="a,b", TAPELINE_FORWARDER__KEY=CANARY)
    assert (settings.master_keys(), settings.forwarder_key()) == (["a", "b"], CANARY)
    assert CANARY not in repr(settings)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[forwarder]\nurl = "ws://m"', "forwarder: needs a key: set key_file, or TAPELINE_FORWARDER__KEY"),
        ('[forwarder]\nurl = "http://m"', "forwarder.url: must begin with ws:// or wss://"),
        ("[forwarder]\nconnections = 0", "forwarder.connections: must be at least 1, not 0"),
        ("[forwarder.venues.binanc]", 'no such venue is configured; did you mean "binance"?'),
        (
            '[forwarder.venues.binance]\nbooks = ["SOL-USDT"]',
            '"SOL-USDT" is not among venues.binance.symbols',
        ),
        ("[master]\nenabled = true", "master: needs keys"),
        ('[master]\ntls_key = "x"', "master: tls_certificate and tls_key go together"),
    ],
)
def test_a_forwarder_or_master_that_cannot_work_is_refused(tmp_path: Path, table: str, says: str):
    assert any(says in fault for fault in faults(tmp_path, f"{GOOD}\n{table}\n"))


def test_a_demo_forwards_to_this_machine_only(tmp_path: Path):
    text = (ROOT / "config/demo.toml").read_text()
    told = faults(tmp_path, text, TAPELINE_FORWARDER__URL="ws://10.0.0.1:8766")
    assert "forwarder.url" in told[0] or "forwarder_url" in told[0].lower()
    assert "not this machine" in told[0]


def test_a_channel_may_be_wanted_of_some_symbols_only(tmp_path: Path):
    venue = loaded(tmp_path, f'{GOOD}only.book = ["btc/usdt"]\n').venues["binance"]
    assert venue.wanted(["trade", "book"], venue.symbols) == {
        ("book", "trade"): ["BTC-USDT"],
        ("trade",): ["ETH-USDT"],
    }
    assert (venue.wants("book", "BTC-USDT"), venue.wants("book", "ETH-USDT")) == (True, False)


@pytest.mark.parametrize(
    ("only", "says"),
    [
        (
            'book = ["BTC-USD"]',
            'only.book: "BTC-USD" is not among venues.binance.symbols; did you mean "BTC',
        ),
        ('liquidation = ["BTC-USDT"]', 'binance has no channel "liquidation"'),
        ('boks = ["BTC-USDT"]', 'did you mean "book"?'),
        ("trade = []\nonly.book = []\nonly.l1 = []\nonly.ticker = []", "leaves no symbol with any channel"),
    ],
)
def test_a_wrong_only_is_told(tmp_path: Path, only: str, says: str):
    told = faults(tmp_path, f'{GOOD}only.{only}\nchannels = ["trade", "book", "l1", "ticker"]\n')
    assert any(says in fault for fault in told), told


def test_only_names_channels_that_are_wanted_at_all(tmp_path: Path):
    told = faults(tmp_path, f'{GOOD}channels = ["trade"]\nonly.book = ["BTC-USDT"]\n')
    assert "book is not among venues.binance.channels (trade): name it there too" in told[0]


def test_every_setting_is_explained_and_nothing_else():
    assert {".".join(path) for path in describe.settings()} == {*describe.TEXTS} | describe.SECRET


def test_the_schema_in_the_repository_is_the_codes():
    kept = (ROOT / "docs/schemas/tapeline.schema.json").read_text(encoding="utf-8")
    assert kept == schema_text(), "tapeline config schema > docs/schemas/tapeline.schema.json renews it"


@pytest.mark.parametrize("name", ["demo.toml", "tapeline.toml", "ftso.toml"])
def test_the_shipped_configurations_are_what_the_schema_allows(name: str):
    tree = tomllib.loads((ROOT / "config" / name).read_text(encoding="utf-8"))
    jsonschema.validate(tree, describe.schema())


def test_the_schema_refuses_what_we_refuse():
    good = {"mode": "live", "venues": {"binance": {"symbols": ["BTC-USDT"]}}}
    jsonschema.validate(good, describe.schema())
    for wrong in ({"egres": "x"}, {"broadcaster": {"token": "x"}}, {"venues": {"binance": {"shards": 0}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | wrong, describe.schema())


def test_a_written_file_reads_as_what_was_meant():
    tree = {
        "mode": "live",
        "egress": 'a"b\\c\x7f\u00e9',
        "log": {"pretty": True},
        "venues": {"binance": {"symbols": ["BTC-USDT"] * 40, "only": {"book": ["BTC-USDT"]}}},
    }
    text = toml(tree, ["head"], {"venues.binance": "shards = 2\nredundancy = 2"})
    assert tomllib.loads(text) == tree
    assert text.startswith("# head\n\n# live: real venues.")
    assert text.endswith("\n# shards = 2\n# redundancy = 2\n")
