"""The environment and `.env`: what is taken, what is refused, and that no secret is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from app.errors import SettingsError
from app.settings import (
    Environment,
    LogFormat,
    LogLevel,
    Settings,
    TimescalePolicy,
    find_unknown,
    load_settings,
    name_variable,
    read_environment,
    write_example,
)

ROOT = Path(__file__).parent.parent
SECRET = "pa55w0rd"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our variables, whoever runs the tests."""
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(name_variable(name), raising=False)


def refuse(**environ: str) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return str(caught.value).splitlines()


def test_nothing_set_gives_the_documented_defaults() -> None:
    assert load_settings({}) == Settings(
        database_url=None,
        env=Environment.DEVELOPMENT,
        host="127.0.0.1",
        port=8000,
        timescale=TimescalePolicy.AUTO,
        data_dir=Path(".aurum"),
        pg_bin=None,
        pool_size=10,
        statement_timeout=timedelta(seconds=30),
        max_body_bytes=16_777_216,
        stale_after=timedelta(minutes=2),
        silent_after=timedelta(minutes=15),
        outbox_retention=timedelta(days=1),
        log_level=LogLevel.INFO,
    )


def test_every_setting_can_be_set() -> None:
    given = {
        "DATABASE_URL": "postgres://aurum@db/aurum",
        "AURUM_ENV": "production",
        "AURUM_HOST": "0.0.0.0",
        "AURUM_PORT": "65535",
        "AURUM_TRUSTED_HOSTS": "a.example, 10.1.2.3,",
        "AURUM_CORS_ORIGINS": "https://a.example:8443",
        "AURUM_TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8,::1",
        "AURUM_MAX_CONNECTIONS": "5",
        "AURUM_DRAIN": "PT5S",
        "AURUM_TIMESCALE": "require",
        "AURUM_DATA_DIR": "/var/lib/aurum",
        "AURUM_PG_BIN": "/usr/lib/postgresql/17/bin",
        "AURUM_POOL_SIZE": "1",
        "AURUM_STATEMENT_TIMEOUT": "PT0.5S",
        "AURUM_MAX_BODY_BYTES": "1024",
        "AURUM_MAX_BATCH_ROWS": "10",
        "AURUM_MAX_METRICS": "20",
        "AURUM_MAX_PAGE_ROWS": "30",
        "AURUM_INGEST_QUEUE_BYTES": "4096",
        "AURUM_INGEST_DEADLINE": "PT3S",
        "AURUM_MAX_SERIES_RANGE": "P30D",
        "AURUM_MAX_SERIES_VALUES": "1000",
        "AURUM_STALE_AFTER": "PT30S",
        "AURUM_SILENT_AFTER": "PT1H",
        "AURUM_OUTBOX_RETENTION": "P7D",
        "AURUM_GRAPHQL_MAX_BYTES": "1000",
        "AURUM_GRAPHQL_MAX_TOKENS": "100",
        "AURUM_GRAPHQL_MAX_DEPTH": "5",
        "AURUM_GRAPHQL_MAX_ALIASES": "0",
        "AURUM_GRAPHQL_MAX_ROOT_FIELDS": "1",
        "AURUM_GRAPHQL_MAX_DIRECTIVES": "2",
        "AURUM_GRAPHQL_MAX_VALUES": "50",
        "AURUM_GRAPHQL_MAX_COST": "500",
        "AURUM_QUERY_ALLOWANCE": "6000",
        "AURUM_QUERY_BURST": "700",
        "AURUM_INGEST_ALLOWANCE": "80000",
        "AURUM_INGEST_BURST": "9000",
        "AURUM_GRAPHQL_TIMEOUT": "PT9S",
        "AURUM_GRAPHQL_INTROSPECTION": "1",
        "AURUM_GRAPHIQL": "false",
        "AURUM_GRAPHQL_ALLOWED_OPERATIONS": "/etc/aurum/operations.json",
        "AURUM_GRAPHQL_ALLOW_ONLY_LISTED": "true",
        "AURUM_API_KEY": "aurum_key",
        "AURUM_JWT_SECRET": "s" * 32,
        "AURUM_JWT_ISSUER": "https://id.example",
        "AURUM_JWT_AUDIENCE": "aurum",
        "AURUM_JWT_LEEWAY": "PT1M",
        "AURUM_JWT_ROLES_CLAIM": "realm_access.roles",
        "AURUM_JWT_LOCATIONS_CLAIM": "halls",
        "AURUM_LOG_LEVEL": "warning",
        "AURUM_OTLP_ENDPOINT": "https://collector.example:4318",
        "AURUM_LOG_FORMAT": "json",
    }
    others = {"AURUM_JWT_PUBLIC_KEY", "AURUM_JWT_JWKS_URL"}  # which don't go together with a secret
    assert set(given) | others == {name_variable(name) for name in Settings.__struct_fields__}
    assert load_settings(given) == Settings(
        database_url="postgres://aurum@db/aurum",
        env=Environment.PRODUCTION,
        host="0.0.0.0",
        port=65535,
        trusted_hosts=("a.example", "10.1.2.3"),
        cors_origins=("https://a.example:8443",),
        trusted_proxies=("127.0.0.1", "10.0.0.0/8", "::1"),
        max_connections=5,
        drain=timedelta(seconds=5),
        timescale=TimescalePolicy.REQUIRE,
        data_dir=Path("/var/lib/aurum"),
        pg_bin=Path("/usr/lib/postgresql/17/bin"),
        pool_size=1,
        statement_timeout=timedelta(milliseconds=500),
        max_body_bytes=1024,
        max_batch_rows=10,
        max_metrics=20,
        max_page_rows=30,
        ingest_queue_bytes=4096,
        ingest_deadline=timedelta(seconds=3),
        max_series_range=timedelta(days=30),
        max_series_values=1000,
        stale_after=timedelta(seconds=30),
        silent_after=timedelta(hours=1),
        outbox_retention=timedelta(days=7),
        graphql_max_bytes=1000,
        graphql_max_tokens=100,
        graphql_max_depth=5,
        graphql_max_aliases=0,
        graphql_max_root_fields=1,
        graphql_max_directives=2,
        graphql_max_values=50,
        graphql_max_cost=500,
        query_allowance=6000,
        query_burst=700,
        ingest_allowance=80_000,
        ingest_burst=9_000,
        graphql_timeout=timedelta(seconds=9),
        graphql_introspection=True,
        graphiql=False,
        graphql_allowed_operations=Path("/etc/aurum/operations.json"),
        graphql_allow_only_listed=True,
        jwt_secret="s" * 32,
        jwt_issuer="https://id.example",
        jwt_audience="aurum",
        jwt_leeway=timedelta(minutes=1),
        jwt_roles_claim="realm_access.roles",
        jwt_locations_claim="halls",
        api_key="aurum_key",
        log_level=LogLevel.WARNING,
        otlp_endpoint="https://collector.example:4318",
        log_format=LogFormat.JSON,
    )
    assert load_settings({"AURUM_JWT_PUBLIC_KEY": "/etc/key.pem"}).jwt_public_key == Path("/etc/key.pem")
    assert load_settings({"AURUM_JWT_JWKS_URL": "https://id.example/keys"}).jwt_jwks_url == "https://id.example/keys"


def test_the_case_of_a_choice_does_not_matter() -> None:
    settings = load_settings({"AURUM_TIMESCALE": "OFF", "AURUM_LOG_LEVEL": "Debug"})
    assert (settings.timescale, settings.log_level) == (TimescalePolicy.OFF, LogLevel.DEBUG)


WHOLE_PORT = "must be a whole number from 1 to 65535."
DURATION = "must be an ISO 8601 duration, such as PT30S, PT5M or P1D."


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("AURUM_PORT", "0", WHOLE_PORT),
        ("AURUM_PORT", "65536", WHOLE_PORT),
        ("AURUM_PORT", "-1", WHOLE_PORT),
        ("AURUM_PORT", "80.5", WHOLE_PORT),
        ("AURUM_PORT", "http", WHOLE_PORT),
        ("AURUM_PORT", "9" * 5000, WHOLE_PORT),
        ("AURUM_POOL_SIZE", "0", "must be a whole number from 1 to 1000."),
        ("AURUM_POOL_SIZE", "1001", "must be a whole number from 1 to 1000."),
        ("AURUM_QUERY_ALLOWANCE", "0", "must be a whole number of at least 1."),
        ("AURUM_INGEST_BURST", "1MB", "must be a whole number of at least 1."),
        ("AURUM_MAX_BODY_BYTES", "1023", "must be a whole number of at least 1024."),
        ("AURUM_MAX_BODY_BYTES", "16MB", "must be a whole number of at least 1024."),
        ("AURUM_GRAPHIQL", "perhaps", "must be true or false."),
        ("AURUM_GRAPHQL_ALLOW_ONLY_LISTED", "perhaps", "must be true or false."),
        ("AURUM_ENV", "staging", "must be one of development, production."),
        ("AURUM_TIMESCALE", "yes", "must be one of auto, require, off."),
        ("AURUM_LOG_FORMAT", "xml", "must be one of plain, json."),
        ("AURUM_LOG_LEVEL", "verbose", "must be one of debug, info, warning, error."),
        ("AURUM_STATEMENT_TIMEOUT", "half a minute", DURATION),
        ("AURUM_STALE_AFTER", "P1M", DURATION),
        ("AURUM_SILENT_AFTER", "inf", DURATION),
        ("AURUM_OUTBOX_RETENTION", "nan", DURATION),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_name_and_what_would_be_right(
    variable: str, value: str, reason: str
) -> None:
    assert refuse(**{variable: value}) == [f"{variable} is {value!r}: {reason}"]


@pytest.mark.parametrize("value", ["PT0S", "-PT30S", "P36501D"])
@pytest.mark.parametrize(
    "variable", ["AURUM_MAX_SERIES_RANGE", "AURUM_STALE_AFTER", "AURUM_SILENT_AFTER", "AURUM_OUTBOX_RETENTION"]
)
def test_a_duration_is_longer_than_nothing_and_shorter_than_a_century(variable: str, value: str) -> None:
    expected = f"{variable} is {value}: must be longer than nothing, such as PT30S, and at most P36500D."
    assert expected in refuse(**{variable: value})


@pytest.mark.parametrize("value", ["PT0S", "PT0.0009S", "-PT1S", "P25D"])
def test_a_statement_timeout_that_postgres_would_not_take_is_refused(value: str) -> None:
    assert refuse(AURUM_STATEMENT_TIMEOUT=value) == [
        f"AURUM_STATEMENT_TIMEOUT is {value}: must be from PT0.001S to P24D."
    ]


def test_silent_comes_after_stale() -> None:
    assert refuse(AURUM_STALE_AFTER="PT15M") == [
        "AURUM_SILENT_AFTER is PT15M: must be longer than AURUM_STALE_AFTER, which is PT15M."
    ]
    assert load_settings({"AURUM_STALE_AFTER": "PT14M59S"}).stale_after == timedelta(minutes=14, seconds=59)


def test_all_refusals_come_at_once() -> None:
    assert refuse(AURUM_PORT="x", AURUM_POOL_SIZE="0", AURUM_ENV="test") == [
        "AURUM_ENV is 'test': must be one of development, production.",
        f"AURUM_PORT is 'x': {WHOLE_PORT}",
        "AURUM_POOL_SIZE is '0': must be a whole number from 1 to 1000.",
    ]


def test_production_needs_a_database() -> None:
    assert refuse(AURUM_ENV="production") == [
        "DATABASE_URL is not set: AURUM_ENV=production has no embedded server, "
        "set it to postgresql://user:password@host:port/database."
    ]


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://aurum:{SECRET}@db/aurum",
        f"aurum:{SECRET}@db/aurum",
        SECRET,
        f"postgresql://aurum:{SECRET}@[::1/aurum",
        f"postgresql://aurum:sek/{SECRET}@db/aurum",
        f"postgresql://aurum:sek#{SECRET}@db/aurum",
        f"postgresql://aurum:sek?{SECRET}@db/aurum",
        f"postgresql://aurum:sek@{SECRET}@db/aurum",
        f"postgresql://aurum:{SECRET}@db:99999/aurum",
        f"postgresql://aurum:{SECRET}@db:9x9/aurum",
        f"postgresql://aurum:{SECRET}\N{ACCOUNT OF}@db/aurum",
    ],
)
def test_a_database_url_that_cannot_be_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"DATABASE_URL": url})
    assert str(caught.value) == (
        "DATABASE_URL is not a PostgreSQL URL (it is a secret, not shown): it must look like "
        "postgresql://user:password@host:port/database, "
        "with any of : / ? # @ % in the password as %3A %2F %3F %23 %40 %25."
    )
    assert caught.value.__context__ is None


@dataclass
class EnvFile:
    path: Path

    def write(self, *lines: str) -> None:
        self.path.write_text("\n".join(lines) + "\n")

    def read(self) -> Settings:
        return load_settings(read_environment(self.path))


@pytest.fixture
def env_file(tmp_path: Path) -> EnvFile:
    return EnvFile(tmp_path / ".env")


def test_the_env_file_is_read(env_file: EnvFile) -> None:
    env_file.write("# ours", "AURUM_PORT=9000", "export AURUM_HOST='::1'")
    assert (env_file.read().port, env_file.read().host) == (9000, "::1")


def test_without_an_env_file_the_environment_is_enough(env_file: EnvFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURUM_PORT", "9001")
    assert env_file.read().port == 9001


def test_the_env_file_of_the_working_folder_is_the_default(env_file: EnvFile, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write("AURUM_PORT=9000")
    monkeypatch.chdir(env_file.path.parent)
    assert load_settings().port == 9000


def test_the_environment_wins_over_the_env_file(env_file: EnvFile, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write("AURUM_PORT=9000", "AURUM_POOL_SIZE=3")
    monkeypatch.setenv("AURUM_PORT", "9001")
    assert (env_file.read().port, env_file.read().pool_size) == (9001, 3)


def test_an_empty_variable_counts_as_unset_and_hides_the_env_file(
    env_file: EnvFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write("DATABASE_URL=postgresql://db/aurum", "AURUM_PORT=", "AURUM_HOST")
    monkeypatch.setenv("DATABASE_URL", "")
    assert env_file.read() == Settings()
    assert read_environment(env_file.path).keys().isdisjoint({"DATABASE_URL", "AURUM_PORT", "AURUM_HOST"})


def test_names_that_look_like_ours_and_are_not_are_found() -> None:
    environ = dict.fromkeys(
        ["AURUM_PROT", "AURUM_DATABASE_URL", "AURUM_PORT", "AURUM_TEST_DATABASE_URL", "AURUM_CI_X", "PATH"], "1"
    )
    assert find_unknown(environ) == ["AURUM_DATABASE_URL", "AURUM_PROT"]


def test_an_unknown_name_stops_nothing() -> None:
    assert load_settings({"AURUM_PROT": "9000"}) == Settings()


def test_the_example_is_what_the_generator_says() -> None:
    assert (ROOT / ".env.example").read_text() == write_example()


def test_the_example_names_every_setting_once_and_sets_none(env_file: EnvFile) -> None:
    env_file.path.write_text(write_example())
    assert env_file.read() == Settings()
    for field in msgspec.structs.fields(Settings):
        assert write_example().count(f"\n# {name_variable(field.name)}=") == 1, field.name
    assert "\n\n# The port that the service listens on.\n# AURUM_PORT=8000\n\n" in write_example()
    assert max(map(len, write_example().splitlines())) <= 120


def test_the_example_with_the_marks_taken_off_gives_the_defaults(env_file: EnvFile) -> None:
    lines = [
        line.removeprefix("# ") for line in write_example().splitlines() if line.startswith(("# AURUM_", "# DATA"))
    ]
    assert len(lines) == len(Settings.__struct_fields__)
    # Of the three that tokens are checked by, one may be set.
    env_file.write(*(line for line in lines if not line.startswith(("AURUM_JWT_SECRET", "AURUM_JWT_PUBLIC_KEY"))))
    examples = ("postgresql://aurum:password@127.0.0.1:5432/aurum", Path("/usr/lib/postgresql/17/bin"))
    listed = Path("persisted-documents.json")
    assert env_file.read() == Settings(
        database_url=examples[0],
        pg_bin=examples[1],
        trusted_hosts=("telemetry.plant.example",),
        cors_origins=("https://dashboard.plant.example",),
        trusted_proxies=("127.0.0.1", "10.20.0.0/24"),
        query_allowance=600_000,
        query_burst=100_000,
        ingest_allowance=60_000_000,
        ingest_burst=16_777_216,
        graphql_introspection=True,
        graphiql=True,
        graphql_allowed_operations=listed,
        otlp_endpoint="http://127.0.0.1:4318",
        api_key="aurum_3f9c21ab_and-the-secret-as-key-new-has-printed-it",
        log_format=LogFormat.JSON,
        jwt_jwks_url="https://id.example/realms/plant/protocol/openid-connect/certs",
        jwt_issuer="https://id.example/realms/plant",
        jwt_audience="aurum",
        jwt_locations_claim="locations",
    )


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s" * 40 + "\n")
    given = {"AURUM_JWT_SECRET_FILE": str(file)}
    assert load_settings(given).jwt_secret == "s" * 40
    assert find_unknown(given) == []
    assert find_unknown({"AURUM_PORT_FILE": "x"}) == ["AURUM_PORT_FILE"]


def test_a_secret_s_file_that_can_t_be_right_is_refused_and_shows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    given = {"AURUM_JWT_SECRET_FILE": str(file)}
    assert refuse(**given) == [
        f"AURUM_JWT_SECRET_FILE is {str(file)!r}, which can't be read: No such file or directory."
    ]
    file.write_text("\n")
    assert refuse(**given) == [
        f"AURUM_JWT_SECRET_FILE is {str(file)!r}, which holds nothing, or more than 65,536 bytes."
    ]
    file.write_text("short")
    assert refuse(**given) == ["AURUM_JWT_SECRET is a secret, not shown: it must have at least 32 bytes."]
    assert refuse(**given, AURUM_JWT_SECRET="s" * 32) == [
        "AURUM_JWT_SECRET and AURUM_JWT_SECRET_FILE are both set: leave one out."
    ]


def test_the_process_s_secret_stands_over_the_file_s_in_either_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, file = tmp_path / "secret", tmp_path / ".env"
    secret.write_text("f" * 32)
    file.write_text(f"AURUM_JWT_SECRET={'e' * 32}\n")
    monkeypatch.setenv("AURUM_JWT_SECRET_FILE", str(secret))
    assert load_settings(read_environment(file)).jwt_secret == "f" * 32


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"AURUM_JWT_SECRET": "s" * 32, "AURUM_JWT_PUBLIC_KEY": "key.pem"},
            "AURUM_JWT_SECRET and AURUM_JWT_PUBLIC_KEY are set: tokens are checked by one of them.",
        ),
        (
            {"AURUM_JWT_JWKS_URL": "http://id.example/keys"},
            "AURUM_JWT_JWKS_URL is not a URL that keys can be trusted from: it must begin with https://, or with http:// "
            "and an address of this machine.",
        ),
        ({"AURUM_JWT_LEEWAY": "PT6M"}, "AURUM_JWT_LEEWAY is PT6M: must be from PT0S to PT5M."),
    ],
)
def test_tokens_that_could_not_be_checked_are_refused(given: dict[str, str], sentence: str) -> None:
    assert refuse(**given) == [sentence]


def test_a_password_in_the_file_stands_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    file = tmp_path / ".env"
    file.write_text("DATABASE_URL=postgresql://aurum:a${HOME}b@127.0.0.1/aurum\n")
    assert read_environment(file)["DATABASE_URL"] == "postgresql://aurum:a${HOME}b@127.0.0.1/aurum"


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"AURUM_PORT=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env can't be read"):
        read_environment(file)


def test_a_line_of_the_file_that_is_no_setting_is_refused_by_number(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# ours\nAURUM_PORT=8001\nAURUM_HOST 127.0.0.1 =x\n")
    with pytest.raises(SettingsError, match=r"Line 3 of .*\.env is no NAME=value\."):
        read_environment(file)


@pytest.mark.parametrize(
    ("variable", "given", "line"),
    [
        ("TRUSTED_HOSTS", "a.example,*", "has '*': must be names or addresses, without scheme, port or *."),
        ("TRUSTED_HOSTS", "a:1", "has 'a:1': must be names or addresses, without scheme, port or *."),
        (
            "CORS_ORIGINS",
            "a.example",
            "has 'a.example': must be scheme://host or scheme://host:port, without a path or *.",
        ),
        (
            "CORS_ORIGINS",
            "https://a/",
            "has 'https://a/': must be scheme://host or scheme://host:port, without a path or *.",
        ),
        (
            "CORS_ORIGINS",
            "http://*",
            "has 'http://*': must be scheme://host or scheme://host:port, without a path or *.",
        ),
        *(
            (
                "TRUSTED_PROXIES",
                everyone,
                f"has '{everyone}': must be an address or a network, such as 10.20.0.0/24, and not all there are.",
            )
            for everyone in ("proxy", "*", "0.0.0.0/0", "::/0")
        ),
        ("DRAIN", "PT2H", "is PT120M: must be from PT0S to PT60M."),
    ],
)
def test_a_slip_in_a_name_or_in_the_drain_is_refused(variable: str, given: str, line: str) -> None:
    assert refuse(**{f"AURUM_{variable}": given}) == [f"AURUM_{variable} {line}"]
