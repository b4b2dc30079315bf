"""Object generations for the Google Cloud Storage emulator.

TensorStore reads an object's generation from a header and makes concurrent writes conditional on
it. The emulator lacks the header and ignores the condition: TensorStore reports malformed
generations, and writers overwrite each other.
"""

from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_HEADER = "x-goog-generation"
_OF_OBJECTS = (objects.get, objects.download, objects.insert, objects.delete)


def add_generations() -> None:
    """Makes all servers of this process send generations and check conditions on them."""
    server.HANDLERS = tuple(
        (pattern, {method: _with_generations(handler) for method, handler in handlers.items()})
        for pattern, handlers in server.HANDLERS
    )


def _with_generations(handler):
    if handler not in _OF_OBJECTS:
        return handler

    def handle(request, response, storage, *args, **kwargs):
        bucket = request.params["bucket_name"]
        name = request.params.get("object_id") or request.query.get("name", [None])[0]

        def generation():
            try:
                return storage.get_file_obj(bucket, name)["generation"]
            except NotFound:
                return "0"

        before = generation()
        wanted, unwanted = (
            request.query.get(f"ifGeneration{word}", [None])[0] for word in ("Match", "NotMatch")
        )
        if wanted not in (None, before) or unwanted == before:
            _ = request.data  # An unread body would reset the connection.
            refused = request.method != "GET" or wanted is not None
            response.status = HTTPStatus.PRECONDITION_FAILED if refused else HTTPStatus.NOT_MODIFIED
            return
        handler(request, response, storage, *args, **kwargs)
        response[_HEADER] = generation()

    return handle
