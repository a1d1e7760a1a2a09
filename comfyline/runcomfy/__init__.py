"""RunComfy over HTTP: one method a call, what each answer proves, and when to ask again.

client      one method a call, and the one loop that asks again
transport   which connection a call takes, and the only place that adds the token
leaving     how far the paid POST got
reply       an HTTP answer, read once
answers     what RunComfy writes, as pydantic models
wire        the same as frozen values
meaning     what an answer means: the one table of status codes and error codes
verdict     what that proves about the paid POST
troubles    which error it is for every other call
listing     the catalogue, page by page
outage      how long to go on asking
downloads   outputs, without a token
"""

import logging

_TALKATIVE = (
    "hpack.hpack",
    "hpack.table",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
    "httpx",
)


def _worth_a_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# Below WARNING they log whole URLs, whose query may be a password, and all headers: hpack those of
# requests, httpcore those of answers. A level could be set again by anyone who asks for more
# logs; a filter stays.
for _name in _TALKATIVE:
    logging.getLogger(_name).addFilter(_worth_a_warning)
