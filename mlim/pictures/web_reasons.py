"""Why a picture could not be had from the web: the stable codes of these rejections."""

UNREACHABLE = "unreachable"
TIMEOUT = "timeout"
HTTP_STATUS = "http-status"
TOO_MANY_REDIRECTS = "too-many-redirects"
UNSUPPORTED_ADDRESS = "unsupported-address"
PRIVATE_ADDRESS = "private-address"

# Another run may fare better, with the same catalog or with other settings of `download`
MAY_PASS = frozenset({UNREACHABLE, TIMEOUT, HTTP_STATUS, TOO_MANY_REDIRECTS, PRIVATE_ADDRESS})
