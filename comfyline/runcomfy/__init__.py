"""RunComfy over HTTP: one method a call, what each answer proves, and when to ask again.

client         one method a call
transport      connections, how far the paid POST got, and an answer as it is read once
wire           what RunComfy writes, as frozen values
verdict        what an answer means, what it proves about the paid POST, and which error it is
retry          how long to go on asking
poll           asking for the state of a request until it has ended
results        results, written down, and the media that they name
download       outputs, without a token
allowed_hosts  where outputs may come from
"""

import logging

_TALKATIVE = (
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.proxy",
    "httpcore.socks",
    "httpx",
)


def _worth_a_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# Below WARNING they log whole URLs, whose query may be a password, and the headers of answers. A
# level could be set again by anyone who asks for more logs; a filter stays.
for _name in _TALKATIVE:
    logging.getLogger(_name).addFilter(_worth_a_warning)
