"""`--nproc-per-node`, which is no training option and has limits all the same."""


def parse_ranks(text: str) -> int | None:
    """The number of ranks that was typed, judged as the wizard judges it.

    Raises:
        UsageError: it is none.
    """
    from xtuner.launch.fit import NPROC
    from xtuner.tui.wizard.fields import all_fields

    ranks: int | None = all_fields()[NPROC].parse(text)
    return ranks
