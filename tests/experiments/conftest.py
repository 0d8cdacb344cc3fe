"""The pictures, models and the way to run a command that the tests of the commands have."""

from tests.commands.conftest import bare as bare
from tests.commands.conftest import command as command
from tests.commands.conftest import mini as mini
from tests.commands.conftest import no_hub as no_hub
from tests.commands.conftest import photos as photos
from tests.commands.conftest import split as split
from tests.commands.conftest import world as world
