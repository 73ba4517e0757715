"""Settings: what the environment may say, and what is said about it when it can't be used."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.protocols.errors import BadSetting
from callboard.settings import Settings, describe

URLS = {
    "CALLBOARD_DATABASE_URL": "postgresql://dave:hunter2@db:5432/board",
    "CALLBOARD_REDIS_URL": "rediss://:hunter2@cache:6379/0",
}


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})

    assert settings == Settings()
    assert (settings.lease_s, settings.partitions, settings.slots) == (5.0, 8, 64)
    assert settings.home.is_absolute()


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_env({"CALLBOARD_LEASE_S": "", "CALLBOARD_DATABASE_URL": " "}) == Settings()


def test_variables_are_read_by_name() -> None:
    settings = Settings.from_env(
        URLS
        | {
            "CALLBOARD_HOME": "/srv/board",
            "CALLBOARD_LEASE_S": "1.5",
            "CALLBOARD_PARTITIONS": "256",
            "CALLBOARD_SLOTS": " 1 ",
            "CALLBOARD_PASSIVATE_AFTER_S": "0",
            "CALLBOARD_GRACE_S": "30",
            "CALLBOARD_LOG_LEVEL": "debug",
        }
    )

    assert settings == Settings(
        database_url=URLS["CALLBOARD_DATABASE_URL"],
        redis_url=URLS["CALLBOARD_REDIS_URL"],
        home=Path("/srv/board"),
        lease_s=1.5,
        partitions=256,
        slots=1,
        passivate_after_s=0.0,
        grace_s=30.0,
        log_level="DEBUG",
    )


def test_the_home_may_begin_with_a_tilde() -> None:
    assert Settings.from_env({"CALLBOARD_HOME": "~/board"}).home == Path.home() / "board"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALLBOARD_LEASE_S", "0.9"),
        ("CALLBOARD_LEASE_S", "301"),
        ("CALLBOARD_LEASE_S", "nan"),
        ("CALLBOARD_LEASE_S", "5s"),
        ("CALLBOARD_PARTITIONS", "0"),
        ("CALLBOARD_PARTITIONS", "257"),
        ("CALLBOARD_PARTITIONS", "8.0"),
        ("CALLBOARD_SLOTS", "4097"),
        ("CALLBOARD_PASSIVATE_AFTER_S", "-1"),
        ("CALLBOARD_PASSIVATE_AFTER_S", "86401"),
        ("CALLBOARD_GRACE_S", "inf"),
        ("CALLBOARD_LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(name: str, value: str) -> None:
    allowed = {variable.variable: variable.allowed for variable in describe()}

    with pytest.raises(BadSetting) as refused:
        Settings.from_env({name: value})

    assert (refused.value.name, refused.value.value, refused.value.allowed) == (name, value, allowed[name])
    assert str(refused.value) == f"{name}={value!r} can't be used: {allowed[name]}."


@pytest.mark.parametrize("name", URLS)
def test_a_url_of_another_kind_is_refused_without_its_password(name: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_env(URLS | {name: "mysql://dave:hunter2@db"})

    assert refused.value.name == name
    assert "mysql" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", URLS)
def test_one_url_without_the_other_is_refused(name: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_env({name: URLS[name]})

    assert refused.value.name in URLS.keys() - {name}


def test_the_urls_of_the_local_services_are_taken() -> None:
    urls = {
        "CALLBOARD_DATABASE_URL": "postgresql://postgres@/callboard?host=/tmp/callboard0-ab",
        "CALLBOARD_REDIS_URL": "unix:///tmp/callboard0-ab/redis.sock",
    }

    assert Settings.from_env(urls).redis_url == urls["CALLBOARD_REDIS_URL"]


def test_the_repr_shows_no_password() -> None:
    shown = repr(Settings.from_env(URLS))

    assert "hunter2" not in shown
    assert "lease_s=5.0" in shown


def test_each_field_is_described_once() -> None:
    described = [variable.variable for variable in describe()]

    assert described == [f"CALLBOARD_{name.upper()}" for name in Settings.__struct_fields__]
    assert all(variable.meaning.endswith(".") and variable.allowed for variable in describe())


@given(st.floats(1, 300))
def test_every_lease_in_its_bounds_is_taken(lease_s: float) -> None:
    assert Settings.from_env({"CALLBOARD_LEASE_S": repr(lease_s)}).lease_s == lease_s


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.sampled_from(["LEASE_S", "SLOTS", "HOME"]))
def test_any_text_is_taken_or_refused_by_name(text: str, field: str) -> None:
    name = f"CALLBOARD_{field}"
    refused = None
    try:
        settings = Settings.from_env({name: text})
    except BadSetting as error:
        refused = error.name
    else:
        assert 1 <= settings.lease_s <= 300
        assert 1 <= settings.slots <= 4096
        assert settings.home.is_absolute()
    assert refused in (None, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALLBOARD_DATABASE_URL", "postgresql://dave@db:abc/x"),
        ("CALLBOARD_DATABASE_URL", "postgresql://dave@one:5432,two:99999/x"),
        ("CALLBOARD_REDIS_URL", "redis://db:port"),
        ("CALLBOARD_REDIS_URL", "redis://db:6379/abc"),
    ],
)
def test_a_url_with_a_bad_port_or_database_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.from_env(URLS | {name: value})

    assert refused.value.name == name


@pytest.mark.parametrize(
    "url", ["redis://db", "redis://db:6379/", "rediss://:secret@db:6379/3", "redis://[::1]:6379/0"]
)
def test_urls_of_redis_are_taken(url: str) -> None:
    assert Settings.from_env(URLS | {"CALLBOARD_REDIS_URL": url}).redis_url == url


def test_several_hosts_of_postgresql_are_taken() -> None:
    url = "postgresql://dave@one:5432,two:5433/x"
    assert Settings.from_env(URLS | {"CALLBOARD_DATABASE_URL": url}).database_url == url


def test_a_misspelt_setting_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_env({"CALLBOARD_LEASE": "3", "CALLBOARD_TEST_CONTAINERS": "1"})

    (line,) = caplog.messages
    assert line == "CALLBOARD_LEASE is no setting, and has no effect; is it CALLBOARD_LEASE_S?"
