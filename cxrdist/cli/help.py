"""How the command line explains itself: commands in the order of use, each with examples."""

import click


class WithExamples(click.Command):
    """A command whose help keeps the lines of its examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they stand, one a line."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line.strip()}\n" for line in self.epilog.strip().splitlines()))


class OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they are needed; they show examples."""

    command_class = WithExamples

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Keep the order in which a study needs them."""
        return list(self.commands)
