"""The sandbox: a server process that plays the RunComfy Model API on this machine.

It was written from the API's documentation alone and imports no other part of comfyline, so that
client and sandbox are two independent readings of one page. A client cannot tell that it is not
talking to RunComfy, but for the address.
"""
