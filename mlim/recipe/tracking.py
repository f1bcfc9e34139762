"""Where runs and models are recorded."""

from pydantic import Field, NonNegativeFloat, PositiveFloat

from mlim.config import Config, PlainName, Title


class EnergyConfig(Config):
    """Where the electricity comes from that tracked stages take, to measure it (extra `energy`)."""

    country: str = Field(pattern="^[A-Z]{3}$", description="three letters, as DEU: how much a kWh emits there")
    price: NonNegativeFloat | None = Field(default=None, description="of one kWh, in any currency")


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
    energy: EnergyConfig | None = Field(
        default=None,
        description="measure electricity, emissions and cost of stages that are tracked (`pip install 'mlim[energy]'`)",
    )

    @property
    def offline(self) -> bool:
        """Whether results stay in the work folder alone."""
        return self.uri == "none"
