"""Files of a session over REST: those that the device sent, and those that are for it."""

import re
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from aip_cluster.protocol import ProtocolError, new_id
from aip_cluster.protocol.files import check_file_name
from aip_cluster.protocol.ids import now_ms
from node.api.context import Context, answer
from node.api.schemas import FileAnswer, FilesAnswer
from node.serving.http_errors import UNKNOWN_SESSION, ApiError
from shared_state.errors import NotRegistered, SessionNotFound
from shared_state.files import FileInfo, FileMismatch, Upload
from shared_state.sessions import TERMINAL, Session

__all__ = ["get_file", "list_files", "put_file"]

_MIME_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}")


async def _session(context: Context, request: Request) -> Session:
    session = await context.service.current(await context.state.sessions.find(request.path_params["session_id"]))
    if session is None:
        raise ApiError(404, UNKNOWN_SESSION)
    return session


def _name(request: Request) -> str:
    try:
        return check_file_name(request.path_params["name"], "name")
    except ProtocolError as exc:
        raise ApiError(400, str(exc)) from None


async def list_files(context: Context, request: Request) -> Response:
    """`GET /api/sessions/{session_id}/files`."""
    session = await _session(context, request)
    found = await context.state.files.list(session.session_id)
    return answer(FilesAnswer(files=[FileAnswer.of(f) for f in found]))


async def get_file(context: Context, request: Request) -> Response:
    """`GET /api/sessions/{session_id}/files/{name}`: piece by piece, never whole in memory."""
    session = await _session(context, request)
    info = await context.state.files.find(session.session_id, _name(request))
    if info is None:
        raise ApiError(404, "The session has no file of this name")
    headers = {
        "Content-Length": str(info.size),
        "ETag": f'"{info.sha256}"',
        "X-Checksum-SHA256": info.sha256,
        # Whatever a device says a file is, a browser must not run it here.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(info.name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    mime_type = info.mime_type if _MIME_TYPE.fullmatch(info.mime_type) else "application/octet-stream"
    return StreamingResponse(context.state.files.read(session.session_id, info), media_type=mime_type, headers=headers)


async def put_file(context: Context, request: Request) -> Response:
    """`PUT /api/sessions/{session_id}/files/{name}`: stored, verified, then sent to the session's device."""
    session = await _session(context, request)
    if session.state in TERMINAL:
        raise ApiError(409, "The session has ended: no device waits for the file")
    name = _name(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > context.settings.max_file_bytes:
        raise _too_large(context)
    context.state.memory.check(waits=True)
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    upload = context.state.files.upload(session.session_id, name, new_id(), mime_type=kind[:128])
    try:
        info = await _receive(context, request, upload)
    except BaseException:
        await upload.abort()
        raise
    try:
        message = f"file\n{session.session_id}\n{name}".encode()
        await context.state.inbox.post(session.client_id, message)
        await context.state.sessions.advance(
            session.session_id, None, event={"event": "file_stored", "name": name, "size": info.size}
        )
    except NotRegistered:
        raise ApiError(404, "Client not online") from None
    except SessionNotFound:
        raise ApiError(404, UNKNOWN_SESSION) from None
    return answer(FileAnswer.of(info), 202)


async def _receive(context: Context, request: Request, upload: Upload) -> FileInfo:
    try:
        async for chunk in request.stream():
            if upload.size + len(chunk) > context.settings.max_file_bytes:
                raise _too_large(context)
            await upload.write(chunk)
    except ClientDisconnect:
        raise ApiError(400, "The body ended early") from None
    checksum = request.headers.get("x-checksum-sha256")
    if checksum is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", checksum):
        raise ApiError(400, "X-Checksum-SHA256: must be 64 hexadecimal digits")
    try:
        return await upload.commit(stored_ms=now_ms(), checksum=checksum, to_device=True)
    except FileMismatch as exc:
        raise ApiError(422, str(exc)) from None


def _too_large(context: Context) -> ApiError:
    return ApiError(413, f"The file is larger than {context.settings.max_file_bytes} bytes")
