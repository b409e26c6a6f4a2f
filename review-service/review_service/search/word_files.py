"""The operator's files of words: synonyms, stop words, antonyms, and words that Kiwi does not know."""

from pathlib import Path

from onecard import logs
from review_service.words import defaults
from review_service.words.synonyms import SearchWords, parse_search_words
from review_service.words.user_words import UserWords, parse_user_words

USER_WORDS_FILE = "user_words.txt"
SYNONYMS_FILE = "synonyms.txt"
STOP_WORDS_FILE = "stop_words.txt"
ANTONYMS_FILE = "antonyms.txt"
_FILES = {
    SYNONYMS_FILE: defaults.SYNONYMS,
    STOP_WORDS_FILE: defaults.STOP_WORDS,
    ANTONYMS_FILE: defaults.ANTONYMS,
}
"""Applied to queries, in the order of `parse_search_words`; each with what is built in."""
MAX_FILE_BYTES = 4_000_000
"""A larger file is not read."""

log = logs.logger()


class WordFiles:
    """A folder with files of words. A file that is not there is replaced by the words that come with the service."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` has the operator's files; None: there are none."""
        self._folder = folder
        self._stamp: tuple[object, ...] | None = None
        self._words = parse_search_words(*_FILES.values())

    def user_words(self) -> UserWords:
        """Read the operator's own words.

        Returns:
            The words.

        Raises:
            NotADirectoryError: The folder is not there.
            OSError: The file cannot be read.
            ValueError: The file is not UTF-8, or too large.
        """
        if self._folder is not None and not self._folder.is_dir():
            raise NotADirectoryError(self._folder)
        return parse_user_words(self._read(USER_WORDS_FILE, defaults.USER_WORDS))

    def search_words(self) -> SearchWords:
        """Get synonyms, stop words and antonyms; the files are read again if they have changed.

        Returns:
            What is applied to queries. If a file cannot be read, what was read before.
        """
        stamp = tuple(self._stamp_of(name) for name in _FILES)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._words = parse_search_words(*(self._read(name, default) for name, default in _FILES.items()))
            except (OSError, ValueError) as error:
                log.warning("the files in SEARCH_WORDS cannot be read", error=type(error).__name__)
        return self._words

    def _stamp_of(self, name: str) -> object:
        if self._folder is None:
            return None
        try:
            status = (self._folder / name).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, name: str, default: str) -> str:
        if self._folder is None:
            return default
        try:
            content = (self._folder / name).read_bytes()
        except FileNotFoundError:
            return default
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"{name} is larger than {MAX_FILE_BYTES} bytes")
        return content.decode()
