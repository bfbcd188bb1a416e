"""What a device may list as `supported_features`, and what a node does otherwise for it."""

__all__ = ["DEDUPLICATES", "FILES", "NO_ECHO", "QUALIFIED_TOOLS", "RESUME"]

# It wants its commands at once: it does not repeat the task as UFO's client does. And it answers every command, also
# where it has no such tool.
NO_ECHO = "commands_without_echo"
# It executes a command once, however often it is sent under the same id.
DEDUPLICATES = "deduplicates"
# It is given a resume token, and shows it when it comes back.
RESUME = "resume"
# It tells tools of one name apart by `namespace.tool`. UFO's client knows bare names only.
QUALIFIED_TOOLS = "qualified_tools"
# It sends files and takes them.
FILES = "files"
