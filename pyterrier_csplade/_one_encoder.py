"""Vectors that belong together come from one encoder, and are stored in one scale."""

from __future__ import annotations

from ._contract import Contract
from ._errors import ContractError


class OneEncoder:
    """The encoder of the documents of an index, and what refuses another.

    Attributes:
        contract: Its contract; None while none is known.
    """

    def __init__(self) -> None:
        self.contract: Contract | None = None

    def observe(self, contract: Contract | None, what: str) -> None:
        """Take the contract of a vector's encoder; a vector of unknown origin passes.

        Args:
            contract: The contract.
            what: How a message calls the vector.

        Raises:
            ContractError: The vectors before come from another encoder, or have another impact scale; names both.
        """
        if contract is None or contract is self.contract:
            return
        if self.contract is None:
            self.contract = contract
        elif contract.fingerprint != self.contract.fingerprint:
            raise ContractError(
                f"{what} was encoded by {contract.summary}, the documents before it by {self.contract.summary}: "
                "an index holds the vectors of one encoder"
            )
        elif contract.impact_scale != self.contract.impact_scale:
            raise ContractError(
                f"{what} has impacts of scale {contract.impact_scale:g}, the documents before it of "
                f"{self.contract.impact_scale:g}: let one quantizer make all impacts of an index"
            )
