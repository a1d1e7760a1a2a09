"""The outputs' own address: no token is needed there, and none may come."""

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, JSONResponse, Response

from comfyline.sandbox.store import Store
from comfyline.sandbox.vault import Vault, media_type


def cdn_routes(store: Store, vault: Vault) -> APIRouter:
    """Serve finished outputs, with ranges."""
    routes = APIRouter()

    @routes.api_route("/cdn/{request_id}/{name}", methods=["GET", "HEAD"])
    def serve_output(request_id: str, name: str, http: HttpRequest) -> Response:
        if "authorization" in http.headers:
            # The real host would simply swallow the token. Here a leak must be seen.
            return JSONResponse(
                {"message": "an output URL must not be sent an Authorization header"}, 400
            )
        request = store.find(request_id)
        if (
            request is None
            or request.status != "completed"
            or request.once
            or name not in request.files
        ):
            return JSONResponse({"message": "there is no such file"}, 404)
        path = vault.path(request_id, name, once=False)
        return FileResponse(path, media_type=media_type(name))

    return routes
