"""What mlim tells a Prefect server that runs; prefect.yaml says which deployment follows."""

from http import HTTPStatus
from pathlib import Path

from flows.engine import engine
from mlim.errors import MlimError

LABELS_SAVED = "mlim.labels.saved"
LABELS = "mlim.labels"  # what the event is about


def tell_labels_saved(table: Path, added: int) -> None:
    """Tell the server of PREFECT_API_URL that a table of answers has so many new ones.

    `InputError` when it asks for a login, `MlimError` when it gives no answer or refuses.
    """
    with engine() as address:
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.events import Event, Resource

        event = Event(
            event=LABELS_SAVED,
            resource=Resource({"prefect.resource.id": LABELS}),
            payload={"table": str(table.resolve()), "added": added},
        )
        try:
            with get_client(sync_client=True) as client:
                client.request("POST", "/events", json=[event.model_dump(mode="json")])
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise  # `engine` says how to log in
            raise MlimError(f"the Prefect server {address} takes no event ({error})") from None
