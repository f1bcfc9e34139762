"""What mlim tells a Prefect server that runs; prefect.yaml says which deployment follows."""

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.engine import engine
from mlim.errors import UnavailableError
from mlim.files import read_json

if TYPE_CHECKING:
    from flows.job import Job

LABELS_SAVED = "mlim.labels.saved"
LABELS = "mlim.labels"  # what the event is about
DATA_ACCEPTED = "mlim.data.accepted"
DATA = "mlim.data"


def tell_labels_saved(table: Path, added: int) -> None:
    """Tell the server of PREFECT_API_URL that a table of answers has so many new ones.

    `InputError` when it asks for a login, `UnavailableError` when it gives no answer or refuses.
    """
    _tell(LABELS_SAVED, LABELS, {"table": str(table.resolve()), "added": added})


def tell_data_accepted(job: "Job") -> None:
    """Tell the same server that a job's folder has other accepted data than before; errors as above."""
    checked = read_json(job.workspace.valid / "summary.json")
    version = {"data_version": checked["data_version"], "accepted": checked["accepted"]}
    _tell(DATA_ACCEPTED, DATA, {**version, **job.part})


def _tell(name: str, about: str, payload: dict[str, Any]) -> None:
    with engine() as address:
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.events import Event, Resource

        event = Event(event=name, resource=Resource({"prefect.resource.id": about}), payload=payload)
        try:
            with get_client(sync_client=True) as client:
                client.request("POST", "/events", json=[event.model_dump(mode="json")])
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise  # `engine` says how to log in
            raise UnavailableError(f"the Prefect server {address} takes no event ({error})") from None
