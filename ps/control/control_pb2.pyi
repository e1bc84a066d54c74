from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
ROLE_READER: Role
ROLE_SERVER: Role
ROLE_UNSPECIFIED: Role
ROLE_WORKER: Role

class Accepted(_message.Message):
    __slots__ = ["job", "waits_for"]
    JOB_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    waits_for: str
    def __init__(self, job: _Optional[bytes] = ..., waits_for: _Optional[str] = ...) -> None: ...

class Admitted(_message.Message):
    __slots__ = ["job"]
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    def __init__(self, job: _Optional[bytes] = ...) -> None: ...

class AgentHello(_message.Message):
    __slots__ = ["directory", "host", "job", "pid", "release", "wire_version_max", "wire_version_min"]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    directory: str
    host: str
    job: bytes
    pid: int
    release: str
    wire_version_max: int
    wire_version_min: int
    def __init__(self, job: _Optional[bytes] = ..., wire_version_min: _Optional[int] = ..., wire_version_max: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., directory: _Optional[str] = ..., release: _Optional[str] = ...) -> None: ...

class Exited(_message.Message):
    __slots__ = ["asked", "code", "cpu_s", "refused", "tail"]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    asked: bool
    code: int
    cpu_s: float
    refused: str
    tail: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, code: _Optional[int] = ..., tail: _Optional[_Iterable[str]] = ..., refused: _Optional[str] = ..., asked: bool = ..., cpu_s: _Optional[float] = ...) -> None: ...

class FromAgent(_message.Message):
    __slots__ = ["exited", "hello"]
    EXITED_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    exited: Exited
    hello: AgentHello
    def __init__(self, hello: _Optional[_Union[AgentHello, _Mapping]] = ..., exited: _Optional[_Union[Exited, _Mapping]] = ...) -> None: ...

class FromController(_message.Message):
    __slots__ = ["goodbye", "message", "refusal", "welcome"]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    goodbye: Goodbye
    message: bytes
    refusal: Refusal
    welcome: Welcome
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., message: _Optional[bytes] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ["failed", "reason"]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    failed: bool
    reason: str
    def __init__(self, reason: _Optional[str] = ..., failed: bool = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ["codecs", "data_address", "host", "job", "machine", "memory_available", "numerics_id", "pid", "rank", "release", "role", "shard", "wire_version_max", "wire_version_min"]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    DATA_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedScalarFieldContainer[str]
    data_address: str
    host: str
    job: bytes
    machine: str
    memory_available: int
    numerics_id: str
    pid: int
    rank: int
    release: str
    role: Role
    shard: int
    wire_version_max: int
    wire_version_min: int
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., job: _Optional[bytes] = ..., wire_version_min: _Optional[int] = ..., wire_version_max: _Optional[int] = ..., rank: _Optional[int] = ..., data_address: _Optional[str] = ..., numerics_id: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ..., release: _Optional[str] = ..., shard: _Optional[int] = ..., machine: _Optional[str] = ..., memory_available: _Optional[int] = ...) -> None: ...

class JobEnd(_message.Message):
    __slots__ = ["exit_code", "last_words", "reason", "seconds"]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    LAST_WORDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    last_words: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    seconds: float
    def __init__(self, reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., seconds: _Optional[float] = ..., last_words: _Optional[_Iterable[str]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ["expected", "field", "got", "remedy"]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    GOT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    expected: str
    field: str
    got: str
    remedy: str
    def __init__(self, field: _Optional[str] = ..., expected: _Optional[str] = ..., got: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ["args", "local_rank", "local_size", "rank", "script", "size"]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
    LOCAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    local_rank: int
    local_size: int
    rank: int
    script: str
    size: int
    def __init__(self, script: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., rank: _Optional[int] = ..., size: _Optional[int] = ..., local_rank: _Optional[int] = ..., local_size: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ["json"]
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class StopReply(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ["failed", "reason"]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    failed: bool
    reason: str
    def __init__(self, reason: _Optional[str] = ..., failed: bool = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ["accepted", "ended", "note", "progress", "refusal"]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    accepted: Accepted
    ended: JobEnd
    note: str
    progress: str
    refusal: Refusal
    def __init__(self, accepted: _Optional[_Union[Accepted, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., progress: _Optional[str] = ..., note: _Optional[str] = ..., ended: _Optional[_Union[JobEnd, _Mapping]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ["args", "host", "pid", "script"]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    host: str
    pid: int
    script: str
    def __init__(self, script: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class ToAgent(_message.Message):
    __slots__ = ["admitted", "goodbye", "refusal", "start"]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    admitted: Admitted
    goodbye: Goodbye
    refusal: Refusal
    start: Start
    def __init__(self, admitted: _Optional[_Union[Admitted, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class ToController(_message.Message):
    __slots__ = ["hello", "leaving", "message", "metrics"]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    leaving: str
    message: bytes
    metrics: str
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., message: _Optional[bytes] = ..., metrics: _Optional[str] = ..., leaving: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ["config", "job", "servers", "shard"]
    class ServersEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    config: str
    job: bytes
    servers: _containers.ScalarMap[int, str]
    shard: int
    def __init__(self, job: _Optional[bytes] = ..., config: _Optional[str] = ..., shard: _Optional[int] = ..., servers: _Optional[_Mapping[int, str]] = ...) -> None: ...

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
