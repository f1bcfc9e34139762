"""Where runs and models are recorded."""

from pydantic import Field, PositiveFloat

from mlim.config import Config, PlainName, Title


class TrackingConfig(Config):
    """Where MLflow keeps runs and models."""

    uri: str | None = Field(
        default=None,
        description="null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current folder; the word `none`: "
        "nothing is tracked and MLflow is not needed (`mlim import-run` records the trainings later)",
    )
    experiment: Title = Field(
        default="mlim", description="of the runs; where they are kept in a file, it names a folder too"
    )
    model_name: PlainName = Field(
        default="mlim-matcher", description="of the registered model, as in models:/NAME@champion"
    )
    timeout_seconds: PositiveFloat = Field(
        default=5, description="how long to wait for a tracking server before giving up"
    )

    @property
    def offline(self) -> bool:
        """Whether results stay in the work folder alone."""
        return self.uri == "none"
