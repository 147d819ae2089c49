from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToServer(_message.Message):
    __slots__ = ("join", "ask", "push", "leave", "beat", "chunk")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    join: Join
    ask: Ask
    push: Push
    leave: Leave
    beat: Beat
    chunk: Chunk
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., push: _Optional[_Union[Push, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("welcome", "refused", "job", "receipt", "wait", "cancel", "stop", "beat", "chunk", "before")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refused: Refused
    job: Job
    receipt: Receipt
    wait: Wait
    cancel: Cancel
    stop: Stop
    beat: Beat
    chunk: Chunk
    before: _containers.RepeatedCompositeFieldContainer[ToWorker]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., wait: _Optional[_Union[Wait, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., before: _Optional[_Iterable[_Union[ToWorker, _Mapping]]] = ...) -> None: ...

class Vectors(_message.Message):
    __slots__ = ("num_values", "buffers", "inline", "place", "encoding", "encoded_bytes", "codec")
    NUM_VALUES_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    ENCODED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    num_values: int
    buffers: bool
    inline: bytes
    place: Place
    encoding: int
    encoded_bytes: int
    codec: str
    def __init__(self, num_values: _Optional[int] = ..., buffers: _Optional[bool] = ..., inline: _Optional[bytes] = ..., place: _Optional[_Union[Place, _Mapping]] = ..., encoding: _Optional[int] = ..., encoded_bytes: _Optional[int] = ..., codec: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("segment", "path", "num_bytes")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    segment: int
    path: str
    num_bytes: int
    def __init__(self, segment: _Optional[int] = ..., path: _Optional[str] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("protocol", "library", "worker", "instance", "layout", "machine", "differences", "holds")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    library: str
    worker: str
    instance: str
    layout: str
    machine: str
    differences: bool
    holds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, protocol: _Optional[int] = ..., library: _Optional[str] = ..., worker: _Optional[str] = ..., instance: _Optional[str] = ..., layout: _Optional[str] = ..., machine: _Optional[str] = ..., differences: _Optional[bool] = ..., holds: _Optional[_Iterable[int]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("worker", "incarnation", "library", "layout", "model", "instructions", "max_message_bytes", "pushes", "encodings", "pulls", "heartbeat_s", "lease_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    incarnation: int
    library: str
    layout: str
    model: str
    instructions: str
    max_message_bytes: int
    pushes: Place
    encodings: _containers.RepeatedScalarFieldContainer[str]
    pulls: str
    heartbeat_s: float
    lease_s: float
    def __init__(self, worker: _Optional[str] = ..., incarnation: _Optional[int] = ..., library: _Optional[str] = ..., layout: _Optional[str] = ..., model: _Optional[str] = ..., instructions: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., pushes: _Optional[_Union[Place, _Mapping]] = ..., encodings: _Optional[_Iterable[str]] = ..., pulls: _Optional[str] = ..., heartbeat_s: _Optional[float] = ..., lease_s: _Optional[float] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("code", "message", "help")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    help: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., help: _Optional[str] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("shared", "look")
    SHARED_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    shared: bool
    look: bool
    def __init__(self, shared: _Optional[bool] = ..., look: _Optional[bool] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "version", "model", "order", "seed", "client", "look")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    id: int
    version: int
    model: Vectors
    order: Order
    seed: int
    client: int
    look: bool
    def __init__(self, id: _Optional[int] = ..., version: _Optional[int] = ..., model: _Optional[_Union[Vectors, _Mapping]] = ..., order: _Optional[_Union[Order, _Mapping]] = ..., seed: _Optional[int] = ..., client: _Optional[int] = ..., look: _Optional[bool] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("steps", "epochs", "learning_rate", "fragment", "proximal", "sent_fragment")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_FIELD_NUMBER: _ClassVar[int]
    SENT_FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    steps: int
    epochs: float
    learning_rate: float
    fragment: int
    proximal: float
    sent_fragment: int
    def __init__(self, steps: _Optional[int] = ..., epochs: _Optional[float] = ..., learning_rate: _Optional[float] = ..., fragment: _Optional[int] = ..., proximal: _Optional[float] = ..., sent_fragment: _Optional[int] = ...) -> None: ...

class Push(_message.Message):
    __slots__ = ("job", "base_version", "num_examples", "num_steps", "fragment", "metrics", "update", "again", "num_processed")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    NUM_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    job: int
    base_version: int
    num_examples: int
    num_steps: int
    fragment: int
    metrics: _containers.ScalarMap[str, float]
    update: Vectors
    again: bool
    num_processed: int
    def __init__(self, job: _Optional[int] = ..., base_version: _Optional[int] = ..., num_examples: _Optional[int] = ..., num_steps: _Optional[int] = ..., fragment: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., update: _Optional[_Union[Vectors, _Mapping]] = ..., again: _Optional[bool] = ..., num_processed: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("job", "status", "reason", "staleness", "weight", "version", "answer")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    job: int
    status: str
    reason: str
    staleness: int
    weight: float
    version: int
    answer: Vectors
    def __init__(self, job: _Optional[int] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ..., staleness: _Optional[int] = ..., weight: _Optional[float] = ..., version: _Optional[int] = ..., answer: _Optional[_Union[Vectors, _Mapping]] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: int
    def __init__(self, job: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "drain", "code")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    drain: bool
    code: str
    def __init__(self, reason: _Optional[str] = ..., drain: _Optional[bool] = ..., code: _Optional[str] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("number", "slack_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SLACK_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    slack_s: float
    def __init__(self, number: _Optional[int] = ..., slack_s: _Optional[float] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: str
    def __init__(self, status: _Optional[str] = ...) -> None: ...
