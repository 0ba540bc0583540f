"""Every error AurumAI raises on purpose, each with the code that clients, logs and docs know it by.

    AurumError
    ├── SettingsError           SETTINGS_INVALID       a setting is missing or can't be right
    ├── EmbeddedServerError     EMBEDDED_SERVER        the embedded PostgreSQL can't be started or reached
    ├── MigrationRefused        MIGRATION_REFUSED      it might lose rows or not be what was meant; nothing was done
    ├── MigrationFailed         MIGRATION_FAILED       a migration did not go through; the database is as it was
    ├── ProgramsMissing         PROGRAMS_MISSING       no pg_dump, pg_restore and psql here that the server or the file asks for
    ├── ScriptsMissing          SCRIPTS_MISSING        GraphiQL's scripts can't be brought; npm says why
    ├── BackupFailed            BACKUP_FAILED          no backup was made; nothing is under its name
    ├── BackupDamaged           BACKUP_DAMAGED         a file isn't a whole backup, or not as it was made
    ├── RestoreRefused          RESTORE_REFUSED        this backup can't be restored here; nothing was done
    │   └── DatabaseNotEmpty    DATABASE_NOT_EMPTY     something is there already; nothing was done
    ├── RestoreFailed           RESTORE_FAILED         what is in the database is not the backup; restore again
    ├── StartupRefused          the service would not be right if it ran; the process ends with exit code 3
    │   ├── SchemaBehind        SCHEMA_BEHIND          migrations are waiting to be applied
    │   ├── SchemaAhead         SCHEMA_AHEAD           the database has migrations that this code doesn't know
    │   ├── SchemaForeign       SCHEMA_FOREIGN         the tables there were not made by these migrations
    │   ├── RestoreUnfinished   RESTORE_UNFINISHED     a backup is being restored into the database, or that was cut off
    │   ├── EditionMissing      TIMESCALE_REQUIRED     AURUM_TIMESCALE=require, and no TimescaleDB
    │   └── AccessUnconfigured  ACCESS_UNCONFIGURED    production, and nobody could be let in: no key, no tokens
    ├── Stopping                STOPPING               the service was told to stop; send requests elsewhere
    └── RequestError            something a client asked for, answered with its code and, where one is to blame, its field
        ├── HostNotTrusted      HOST_NOT_TRUSTED       a name that the service isn't known by
        ├── OriginNotTrusted    ORIGIN_NOT_TRUSTED     a page of another site
        ├── Unauthenticated     UNAUTHENTICATED        no key or token, or none that holds
        ├── Forbidden           FORBIDDEN              whoever asks has no role that may, or not at that location
        ├── IdentityUnavailable IDENTITY_UNAVAILABLE   the keys that tokens are checked by can't be fetched; try again later
        ├── InvalidInput        BAD_USER_INPUT
        ├── QueryTooComplex     QUERY_TOO_COMPLEX      a GraphQL document over a limit; the message names the setting
        ├── QueryTooExpensive   QUERY_TOO_EXPENSIVE    a GraphQL operation that would cost more than AURUM_GRAPHQL_MAX_COST
        ├── TooManyOperations   TOO_MANY_OPERATIONS    a GraphQL operation on a WebSocket that has as many as it may
        ├── PersistedQueryNotFound PERSISTED_QUERY_NOT_FOUND  a GraphQL document by a name that isn't known; send its text
        ├── OperationNotListed  OPERATION_NOT_LISTED   a GraphQL document that isn't among those that may be executed
        ├── UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE
        ├── PayloadTooLarge     PAYLOAD_TOO_LARGE      more than a limit; the message names the setting
        ├── RequestTimeout      REQUEST_TIMEOUT        a body that stopped arriving, or trickles
        ├── NotFound            NOT_FOUND
        ├── AlreadyExists       ALREADY_EXISTS
        ├── Conflict            CONFLICT               something else is stored under the same key
        ├── WrongState          ALERT_STATE            an alert is in a state that doesn't allow it
        ├── RateLimited         RATE_LIMITED           an allowance is spent; try again later
        ├── PartlyStored        any of these, when a part of a body was durable already
        ├── QueryTimeout        QUERY_TIMEOUT          the database was stopped from working on it any longer
        └── DatabaseUnavailable DATABASE_UNAVAILABLE   try again later
            ├── DatabaseBusy    DATABASE_BUSY          others changed the same rows; try again
            └── Overloaded      OVERLOADED             more arrives than the database takes; try again

What no one foresaw reaches clients as INTERNAL, with a correlation id that the log has too.

The message of each is one sentence for a person: what is wrong, and what would be right. None carries SQL or a secret.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class AurumError(Exception):
    """The root of the tree. `code` is stable; the message may be reworded."""

    code: ClassVar[str]


class SettingsError(AurumError):
    code = "SETTINGS_INVALID"


class EmbeddedServerError(AurumError):
    code = "EMBEDDED_SERVER"


class MigrationRefused(AurumError):
    code = "MIGRATION_REFUSED"


class MigrationFailed(AurumError):
    code = "MIGRATION_FAILED"


class ProgramsMissing(AurumError):
    code = "PROGRAMS_MISSING"


class ScriptsMissing(AurumError):
    code = "SCRIPTS_MISSING"


class BackupFailed(AurumError):
    code = "BACKUP_FAILED"


class BackupDamaged(AurumError):
    code = "BACKUP_DAMAGED"


class RestoreRefused(AurumError):
    code = "RESTORE_REFUSED"


class DatabaseNotEmpty(RestoreRefused):
    code = "DATABASE_NOT_EMPTY"


class RestoreFailed(AurumError):
    code = "RESTORE_FAILED"


class StartupRefused(AurumError):
    """The service must not run like this. Servers that catch it exit with `exit_code`."""

    exit_code: ClassVar[int] = 3


class SchemaBehind(StartupRefused):
    code = "SCHEMA_BEHIND"


class SchemaAhead(StartupRefused):
    code = "SCHEMA_AHEAD"


class SchemaForeign(StartupRefused):
    code = "SCHEMA_FOREIGN"


class RestoreUnfinished(StartupRefused):
    code = "RESTORE_UNFINISHED"


class EditionMissing(StartupRefused):
    code = "TIMESCALE_REQUIRED"


class AccessUnconfigured(StartupRefused):
    code = "ACCESS_UNCONFIGURED"


class Stopping(AurumError):
    code = "STOPPING"


class RequestError(AurumError):
    """An error that a client caused or may act upon. `field` is the path of the argument to blame, if there is one."""

    http_status: ClassVar[int]
    http_headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def extensions(self) -> dict[str, object]:
        """What goes beside the message: graphql-core takes it from here into the answer."""
        return {"code": self.code} if self.field is None else {"code": self.code, "field": self.field}


@contextmanager
def blame(place: str | None) -> Iterator[None]:
    """Puts what a RequestError blames under a place in a list, such as machines.3; under None it stays as it is."""
    try:
        yield
    except RequestError as error:
        if place is not None:
            error.field = place if error.field is None else f"{place}.{error.field}"
        raise


class HostNotTrusted(RequestError):
    code = "HOST_NOT_TRUSTED"
    http_status = 400


class OriginNotTrusted(RequestError):
    code = "ORIGIN_NOT_TRUSTED"
    http_status = 403


class Unauthenticated(RequestError):
    code = "UNAUTHENTICATED"
    http_status = 401
    http_headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    code = "FORBIDDEN"
    http_status = 403


class IdentityUnavailable(RequestError):
    code = "IDENTITY_UNAVAILABLE"
    http_status = 503
    http_headers: ClassVar[dict[str, str]] = {"Retry-After": "10"}  # seconds


class InvalidInput(RequestError):
    code = "BAD_USER_INPUT"
    http_status = 400


class QueryTooComplex(RequestError):
    code = "QUERY_TOO_COMPLEX"
    http_status = 400


class QueryTooExpensive(RequestError):
    """`cost` is what was estimated, and the limit."""

    code = "QUERY_TOO_EXPENSIVE"
    http_status = 400

    def __init__(self, message: str, *, field: str, cost: dict[str, int]) -> None:
        super().__init__(message, field=field)
        self.cost = cost


class TooManyOperations(RequestError):
    code = "TOO_MANY_OPERATIONS"
    http_status = 429


class PersistedQueryNotFound(RequestError):
    code = "PERSISTED_QUERY_NOT_FOUND"
    http_status = 404


class OperationNotListed(RequestError):
    code = "OPERATION_NOT_LISTED"
    http_status = 403


class UnsupportedMediaType(RequestError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    http_status = 415
    http_headers: ClassVar[dict[str, str]] = {"Accept-Encoding": "gzip, zstd"}


class PayloadTooLarge(RequestError):
    code = "PAYLOAD_TOO_LARGE"
    http_status = 413


class RequestTimeout(RequestError):
    code = "REQUEST_TIMEOUT"
    http_status = 408
    http_headers: ClassVar[dict[str, str]] = {"Connection": "close"}


class NotFound(RequestError):
    code = "NOT_FOUND"
    http_status = 404


class AlreadyExists(RequestError):
    code = "ALREADY_EXISTS"
    http_status = 409


class Conflict(RequestError):
    code = "CONFLICT"
    http_status = 409


class WrongState(RequestError):
    code = "ALERT_STATE"
    http_status = 409


class RateLimited(RequestError):
    """`wait` is how long it would have to be waited, in seconds; `told` what clients get of that and of the allowance."""

    code = "RATE_LIMITED"
    http_status = 429

    def __init__(self, message: str, *, wait: float, told: dict[str, object]) -> None:
        super().__init__(message)
        self.wait = wait
        self.told = told
        self.http_headers = {"Retry-After": str(told["retryAfter"])}  # type: ignore[misc]  # of the instance alone

    @property
    def extensions(self) -> dict[str, object]:
        return {**super().extensions, **self.told}


class QueryTimeout(RequestError):
    code = "QUERY_TIMEOUT"
    http_status = 504


class DatabaseUnavailable(RequestError):
    code = "DATABASE_UNAVAILABLE"
    http_status = 503
    http_headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}  # seconds


class DatabaseBusy(DatabaseUnavailable):
    code = "DATABASE_BUSY"


class Overloaded(DatabaseUnavailable):
    code = "OVERLOADED"


class PartlyStored(RequestError):
    """Another error, which came when a part of a body was durable already; `durable` is what became of that part."""

    def __init__(self, cause: RequestError, durable: dict[str, object]) -> None:
        super().__init__(f"{cause} What is under `durable` is stored, and needn't be sent again.", field=cause.field)
        self.code = cause.code  # type: ignore[misc]  # of the instance alone
        self.http_status = cause.http_status  # type: ignore[misc]  # as above
        self.http_headers = cause.http_headers  # type: ignore[misc]  # as above
        self.durable = durable
        self._told = cause.extensions

    @property
    def extensions(self) -> dict[str, object]:
        return {**self._told, "durable": self.durable}
