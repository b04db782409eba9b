from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueryInput(_message.Message):
    __slots__ = ("id", "embedding", "vector", "text", "image")
    ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    embedding: bytes
    vector: bytes
    text: str
    image: bytes
    def __init__(self, id: _Optional[str] = ..., embedding: _Optional[bytes] = ..., vector: _Optional[bytes] = ..., text: _Optional[str] = ..., image: _Optional[bytes] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("queries", "limit", "cursor", "with_metadata", "threshold", "exact")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    WITH_METADATA_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[QueryInput]
    limit: int
    cursor: str
    with_metadata: bool
    threshold: float
    exact: bool
    def __init__(self, queries: _Optional[_Iterable[_Union[QueryInput, _Mapping]]] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., with_metadata: _Optional[bool] = ..., threshold: _Optional[float] = ..., exact: _Optional[bool] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("item_id", "distance", "metadata_json")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    distance: float
    metadata_json: str
    def __init__(self, item_id: _Optional[str] = ..., distance: _Optional[float] = ..., metadata_json: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "query_id", "matches", "match_count", "complete", "match_recall", "next_cursor", "nearest_rejected", "recorded")
    ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    MATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    MATCH_RECALL_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    NEAREST_REJECTED_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    id: str
    query_id: str
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    match_count: int
    complete: bool
    match_recall: float
    next_cursor: str
    nearest_rejected: Match
    recorded: bool
    def __init__(self, id: _Optional[str] = ..., query_id: _Optional[str] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., match_count: _Optional[int] = ..., complete: _Optional[bool] = ..., match_recall: _Optional[float] = ..., next_cursor: _Optional[str] = ..., nearest_rejected: _Optional[_Union[Match, _Mapping]] = ..., recorded: _Optional[bool] = ...) -> None: ...

class QueryAnswer(_message.Message):
    __slots__ = ("release", "threshold", "threshold_source", "results", "request_id")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_SOURCE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    release: str
    threshold: float
    threshold_source: str
    results: _containers.RepeatedCompositeFieldContainer[Result]
    request_id: str
    def __init__(self, release: _Optional[str] = ..., threshold: _Optional[float] = ..., threshold_source: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class VerdictInput(_message.Message):
    __slots__ = ("query_id", "item_id", "is_match", "draw_id")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    IS_MATCH_FIELD_NUMBER: _ClassVar[int]
    DRAW_ID_FIELD_NUMBER: _ClassVar[int]
    query_id: str
    item_id: str
    is_match: bool
    draw_id: str
    def __init__(self, query_id: _Optional[str] = ..., item_id: _Optional[str] = ..., is_match: _Optional[bool] = ..., draw_id: _Optional[str] = ...) -> None: ...

class VerdictRequest(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[VerdictInput]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[VerdictInput, _Mapping]]] = ...) -> None: ...

class VerdictAnswer(_message.Message):
    __slots__ = ("accepted", "repeated", "request_id")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    repeated: int
    request_id: str
    def __init__(self, accepted: _Optional[int] = ..., repeated: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class HealthAnswer(_message.Message):
    __slots__ = ("status",)
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[HealthAnswer.Status]
        SERVING: _ClassVar[HealthAnswer.Status]
        NOT_SERVING: _ClassVar[HealthAnswer.Status]
    UNKNOWN: HealthAnswer.Status
    SERVING: HealthAnswer.Status
    NOT_SERVING: HealthAnswer.Status
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: HealthAnswer.Status
    def __init__(self, status: _Optional[_Union[HealthAnswer.Status, str]] = ...) -> None: ...
