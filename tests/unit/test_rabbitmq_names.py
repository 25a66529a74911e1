"""What is in a message of RabbitMQ besides its bytes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from celeriac.brokers.rabbitmq_names import NEW, Envelope, unwrap, wrap


@given(st.binary())
@example(b"L\x94\xc4\x10\x96\xeb\xae\x89\xed\x82N[\xb6\x9a\x8e\x9fk#\xf3\xb8\x01\xadanother place\x02")
def test_what_somebody_else_has_put_into_a_queue_is_a_message_as_it_is(body: bytes) -> None:
    envelope, data = unwrap(body)
    assert body.endswith(data)
    assert data == body or isinstance(envelope, Envelope)


@given(st.binary(), st.builds(Envelope, fence=st.integers(0, 2**62), queue=st.text(), reason=st.text()))
def test_what_is_wrapped_is_the_same_behind_it(data: bytes, envelope: Envelope) -> None:
    assert unwrap(wrap(data, envelope)) == (envelope, data)
    assert unwrap(wrap(data)) == (NEW, data)
