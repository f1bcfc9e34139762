"""An automation of the server that tells a webhook of runs which failed or crashed.

It is there, switched off, with a block for the address to fill in; MLIM_NOTIFY_URL fills it in and switches it on. What
a person changed on the page stays: only what is missing is made.
"""

import os
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events import EventTrigger
from prefect.events.actions import CallWebhook
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict
from pydantic import HttpUrl, SecretStr

from mlim.config import Config, parse

URL_VARIABLE = "MLIM_NOTIFY_URL"
BLOCK = "mlim-notify"
AUTOMATION = "tell of failed runs"
TO_FILL_IN = "https://example.invalid/webhook"
FAILURES = frozenset({"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"})
# `text` is what Slack, Mattermost and others show
PAYLOAD = (
    '{"text": {{ (flow.name ~ " (" ~ flow_run.name ~ ") " ~ flow_run.state.name ~ ": " ~ '
    '(flow_run.state.message or "")) | tojson }}}'
)


class NotifySettings(Config):
    """Whom to tell."""

    url: HttpUrl | None = None


def from_environment() -> NotifySettings:
    """What the environment says; `InputError` for what is no address."""
    return parse(NotifySettings, {"url": os.environ.get(URL_VARIABLE) or None}, URL_VARIABLE)


async def set_up(settings: NotifySettings) -> None:
    """Make block and automation where they are missing, and switch them on where an address is given."""
    block = await _block(settings)
    found = await _automation()
    if found is None:
        action = CallWebhook(block_document_id=block, payload=PAYLOAD)
        await Automation(
            name=AUTOMATION,
            description=f"Fill in the block {BLOCK} and switch this on, or start the server with {URL_VARIABLE}.",
            enabled=settings.url is not None,
            trigger=_trigger(),
            actions=[action],
        ).acreate()
    elif settings.url is not None and not found.enabled:
        await found.aenable()


def _trigger() -> EventTrigger:
    """Runs of deployments: the parts of a pipeline that fails with them are not told of."""
    return EventTrigger(
        expect=set(FAILURES),
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"}
        ),
        posture="Reactive",
        threshold=1,
    )


async def _block(settings: NotifySettings) -> UUID:
    """The id of the block with the address."""
    try:
        known = await Webhook.aload(BLOCK)
    except ValueError:  # the server has none
        known = None
    if known is None or settings.url is not None:
        address = SecretStr(TO_FILL_IN if settings.url is None else str(settings.url))
        known = Webhook(url=address, headers=SecretDict({"Content-Type": "application/json"}))
        return UUID(str(await known.asave(BLOCK, overwrite=True)))
    return UUID(str(known._block_document_id))


async def _automation() -> Automation | None:
    """The automation of the server, if it is there."""
    try:
        return await Automation.aread(name=AUTOMATION)
    except ValueError:
        return None
