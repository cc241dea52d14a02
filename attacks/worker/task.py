"""What a worker is given for one attempt, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fedsim import limits
from fedsim.messages import Broadcast, Knowledge, Reconstruction, Update
from fedsim.models import ModelSpec

LONGEST = 10_000  # characters of a line of error
WHOLE = 200_000  # of a traceback


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attempt at one update: what the server saw, and no path to anything else."""

    attack: str  # its name in the table of attacks
    label: str  # what a line of error calls it
    parameters: Mapping[str, Any]  # its hyper-parameters that are not the defaults
    model: ModelSpec
    device: str
    broadcast: Broadcast
    update: Update
    knowledge: Knowledge
    seed: int  # of the attack's own random stream
    tells: bool = False  # whether anybody wants to hear of its progress
    texts: bool = False  # whether that may hold texts; else numbers alone
    memory: int = 0  # bytes that the worker may hold; 0: nobody counts


Token = Annotated[int, Field(ge=0, le=limits.TOKEN)]
Tokens = Annotated[list[Token], Field(max_length=limits.GUESS)]
Whole = Annotated[int, Field(ge=-limits.INTEGER, le=limits.INTEGER)]
Score = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]


class Answer(BaseModel):
    """What came of an attempt: as JSON, since what a plugin says is not to be believed."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", ser_json_inf_nan="constants"
    )

    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    sequences: list[Tokens] = Field([], max_length=limits.GUESS)
    diagnostics: dict[Name, bool | Whole | float] = Field({}, max_length=1000)
    scores: list[Score] = Field([], max_length=limits.GUESSES)  # of candidates, if it was asked
    members: list[bool] = Field([], max_length=limits.GUESSES)
    error: str | None = Field(None, min_length=1, max_length=LONGEST)  # why it could not run
    place: str = Field("", max_length=LONGEST)  # in the plugin's code, where it raised
    traceback: str = Field("", max_length=WHOLE)

    def guess(self) -> Reconstruction:
        """Return the reconstruction; an empty one where it could not run."""
        sequences = tuple(tuple(tokens) for tokens in self.sequences)
        return Reconstruction(
            sequences=sequences,
            diagnostics=self.diagnostics,
            scores=tuple(self.scores),
            members=tuple(self.members),
        )
