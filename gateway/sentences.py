"""Sentences that tell people about a problem, in their language."""

from typing import Final, NamedTuple

from gateway.errors import Code, Language

_SENTENCES: Final[dict[Code, tuple[str, str, str, str]]] = {
    # code: title, then the sentence in zh, en and es
    Code.INVALID_REQUEST: (
        "Invalid request",
        "请求的内容不完整或格式不正确，请检查后再试。",
        "The request is incomplete or not in the expected format. Please check it and try again.",
        "La solicitud está incompleta o no tiene la forma esperada. Revísala e inténtalo de nuevo.",
    ),
    Code.UNAUTHORIZED: (
        "Sign-in required",
        "您尚未登录或登录已过期，请重新登录。",
        "You are not signed in, or your sign-in has expired. Please sign in again.",
        "No has iniciado sesión o tu sesión ha caducado. Vuelve a iniciar sesión.",
    ),
    Code.NOT_FOUND: (
        "Not found",
        "没有找到您要的内容，它可能已被移除，或者不属于您。",
        "This was not found. It may have been removed, or it is not yours.",
        "No se ha encontrado. Puede que se haya eliminado o que no te pertenezca.",
    ),
    Code.FORBIDDEN_ORIGIN: (
        "Origin not allowed",
        "此网页无权使用该服务。",
        "This web page is not allowed to use the service.",
        "Esta página web no tiene permiso para usar el servicio.",
    ),
    Code.REQUEST_TIMEOUT: (
        "Request took too long",
        "您的请求没有在规定时间内完整到达，请检查网络后再试。",
        "Your request did not arrive completely in time. Please check your connection and try again.",
        "Tu solicitud no llegó completa a tiempo. Revisa tu conexión e inténtalo de nuevo.",
    ),
    Code.METHOD_NOT_ALLOWED: (
        "Method not allowed",
        "此地址不支持这种请求方法。",
        "This address does not support that request method.",
        "Esta dirección no admite ese método de solicitud.",
    ),
    Code.UNSUPPORTED_MEDIA_TYPE: (
        "Unsupported media type",
        "请求的内容类型不是此处所要求的，请检查后再试。",
        "The request's content type is not the one that is expected here. Please check it and try again.",
        "El tipo de contenido de la solicitud no es el que se espera aquí. Revísalo e inténtalo de nuevo.",
    ),
    Code.MISDIRECTED: (
        "Wrong host",
        "此服务不在您访问的主机名下提供。",
        "The service is not available under the host name that you used.",
        "El servicio no se ofrece con el nombre de host que has usado.",
    ),
    Code.STREAMING_DISABLED: (
        "Streaming is off",
        "实时回复目前已关闭。",
        "Live replies are switched off at the moment.",
        "Las respuestas en directo están desactivadas en este momento.",
    ),
    Code.CONVERSATION_BUSY: (
        "Conversation is busy",
        "上一条消息仍在回复中，请等它结束后再发送。",
        "The previous message is still being answered. Please wait for it to finish, then send yours.",
        "Todavía se está respondiendo el mensaje anterior. Espera a que termine y envía el tuyo.",
    ),
    Code.TOO_LARGE: (
        "Too large",
        "发送的内容太大，请缩减后再试。",
        "What you sent is too large. Please make it smaller and try again.",
        "Lo que has enviado es demasiado grande. Redúcelo e inténtalo de nuevo.",
    ),
    Code.RATE_LIMITED: (
        "Too many messages",
        "您发送得太频繁了，请稍等片刻再试。",
        "You are sending messages too quickly. Please wait a moment and try again.",
        "Estás enviando mensajes demasiado rápido. Espera un momento e inténtalo de nuevo.",
    ),
    Code.TOO_MANY_CONNECTIONS: (
        "Too many connections",
        "您打开的窗口或连接太多，请关闭一些后再试。",
        "You have too many windows or connections open. Please close some and try again.",
        "Tienes demasiadas ventanas o conexiones abiertas. Cierra algunas e inténtalo de nuevo.",
    ),
    Code.OVERLOADED: (
        "Service is busy",
        "服务目前很繁忙，请稍后再试。",
        "The service is very busy right now. Please try again shortly.",
        "El servicio está muy ocupado en este momento. Inténtalo de nuevo en breve.",
    ),
    Code.DRAINING: (
        "Service is restarting",
        "服务正在重启，请稍后再试。",
        "The service is restarting. Please try again in a moment.",
        "El servicio se está reiniciando. Inténtalo de nuevo en un momento.",
    ),
    Code.UPSTREAM_UNAVAILABLE: (
        "Assistant unavailable",
        "暂时联系不上助手，请稍后再试。",
        "The assistant cannot be reached right now. Please try again shortly.",
        "No se puede contactar con el asistente en este momento. Inténtalo de nuevo en breve.",
    ),
    Code.UPSTREAM_REJECTED: (
        "Assistant declined",
        "助手无法处理这条消息，请修改后再试，或联系客服。",
        "The assistant could not accept this message. Please change it, or contact support.",
        "El asistente no ha podido aceptar este mensaje. Modifícalo o contacta con soporte.",
    ),
    Code.UPSTREAM_RATE_LIMITED: (
        "Assistant is busy",
        "当前使用助手的人太多，请稍等片刻再试。",
        "The assistant is handling too many messages right now. Please wait a moment and try again.",
        "El asistente está atendiendo demasiados mensajes. Espera un momento e inténtalo de nuevo.",
    ),
    Code.UPSTREAM_UNAUTHORIZED: (
        "Assistant not set up",
        "助手的访问设置有误，再试也无法解决，请联系客服。",
        "The assistant's access is not set up correctly. Trying again will not help; please contact support.",
        "El acceso al asistente no está bien configurado. Reintentar no servirá; contacta con soporte.",
    ),
    Code.UPSTREAM_EMPTY: (
        "Empty answer",
        "助手没有给出任何回复，请再试一次，或换一种说法。",
        "The assistant gave no answer. Please try again, or rephrase your question.",
        "El asistente no ha dado ninguna respuesta. Inténtalo de nuevo o formula la pregunta de otra manera.",
    ),
    Code.UPSTREAM_FAILED: (
        "Answer failed",
        "助手在回复时出了问题，回复可能不完整，请再试一次。",
        "Something went wrong while the assistant was answering, so the answer may be incomplete. Please try again.",
        "Algo falló mientras el asistente respondía, así que la respuesta puede estar incompleta. Inténtalo de nuevo.",
    ),
    Code.UPSTREAM_UNCERTAIN: (
        "Unclear whether the message arrived",
        "连接中断，无法确定助手是否收到了您的消息。再次发送可能会得到两次回复。",
        "The connection broke, and it is unclear whether the assistant received your message. "
        "If you send it again, it may be answered twice.",
        "La conexión se cortó y no está claro si el asistente recibió tu mensaje. "
        "Si lo envías otra vez, puede que se responda dos veces.",
    ),
    Code.UPSTREAM_TIMEOUT: (
        "Answer took too long",
        "助手未能在规定时间内完成回复，请再试一次。",
        "The assistant did not finish its answer in time. Please try again.",
        "El asistente no terminó su respuesta a tiempo. Inténtalo de nuevo.",
    ),
    Code.STORAGE_UNAVAILABLE: (
        "Cannot save right now",
        "目前无法保存对话，请稍后再试。",
        "The conversation cannot be saved right now. Please try again shortly.",
        "La conversación no se puede guardar en este momento. Inténtalo de nuevo en breve.",
    ),
    Code.INTERNAL: (
        "Unexpected problem",
        "服务出现了意外问题，请再试一次；如果问题依旧，请联系客服。",
        "Something unexpected went wrong. Please try again; if it keeps happening, contact support.",
        "Ha ocurrido un problema inesperado. Inténtalo de nuevo; si continúa, contacta con soporte.",
    ),
}

_TOO_MUCH: Final = (
    "",
    "助手的回复超出了允许的长度，只能显示到这里。请换个更具体的问题再试。",
    "The assistant's answer is longer than allowed, so it ends here. Please ask a narrower question.",
    "La respuesta del asistente es más larga de lo permitido y termina aquí. Prueba con una pregunta más concreta.",
)

_RUN_LOST: Final = (
    "",
    "与流程的连接中断，无法再收到它的结果。它可能仍在继续执行；重新运行可能会重复已经完成的操作。",
    "The connection to the workflow broke, so the rest of its result can't be shown. It may still be running: "
    "if you start it again, it may repeat what it has already done.",
    "Se cortó la conexión con el flujo y no se puede mostrar el resto de su resultado. Puede que siga en marcha: "
    "si lo inicias otra vez, podría repetir lo que ya ha hecho.",
)

_COLUMN: Final[dict[Language, int]] = {"zh": 1, "en": 2, "es": 3}


def sentence(code: Code, language: Language) -> str:
    """What happened, and what the person can do about it. It reveals nothing about what is behind the service."""
    return _SENTENCES[code][_COLUMN[language]]


def too_much(language: Language) -> str:
    """The sentence of an `upstream_failed` whose answer was larger than one turn may hold."""
    return _TOO_MUCH[_COLUMN[language]]


def run_lost(language: Language) -> str:
    """The sentence of an `upstream_failed` whose workflow went on where nobody can hear it."""
    return _RUN_LOST[_COLUMN[language]]


def title(code: Code) -> str:
    """A few English words, the same for every problem with this code."""
    return _SENTENCES[code][0]


class Words(NamedTuple):
    """The texts of the pages that a person sees who opens an address of the service in a browser."""

    home: str
    needs_token: str
    for_programs: str
    stream: str
    to_page: str


_WORDS: Final[dict[Language, Words]] = {
    "zh": Words(
        home="对话机器人的实时回复服务",
        needs_token="本服务需要访问令牌。您可以在测试页面中填写令牌并试用。",
        for_programs="这个地址供程序使用",
        stream="程序在这里逐段接收回复，浏览器无法直接显示。您可以在测试页面中试用。",
        to_page="打开测试页面",
    ),
    "en": Words(
        home="A service that streams the answers of chat bots",
        needs_token="This service requires a token. You can enter it on the test page.",
        for_programs="This address is for programs",
        stream="Programs receive answers here piece by piece. A browser alone can't show them; the test page can.",
        to_page="Open the test page",
    ),
    "es": Words(
        home="Un servicio que transmite las respuestas de asistentes de chat",
        needs_token="Este servicio pide una credencial. La página de prueba tiene un campo para ella.",
        for_programs="Esta dirección es para programas",
        stream="Los programas reciben aquí las respuestas por partes, y un navegador no puede mostrarlas por sí solo. "
        "La página de prueba sí puede.",
        to_page="Abrir la página de prueba",
    ),
}


def words(language: Language) -> Words:
    return _WORDS[language]
