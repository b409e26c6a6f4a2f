"""The operator's files of words: synonyms, stop words, and words that Kiwi does not know."""

from pathlib import Path

from onecard import logs
from review_service.words import defaults
from review_service.words.synonyms import SearchWords, parse_search_words
from review_service.words.user_words import UserWords, parse_user_words

USER_WORDS_FILE = "user_words.txt"
SYNONYMS_FILE = "synonyms.txt"
STOP_WORDS_FILE = "stop_words.txt"
MAX_FILE_BYTES = 4_000_000
"""A larger file is not read."""

log = logs.logger()


class WordFiles:
    """A folder with files of words. A file that is not there is replaced by the words that come with the service."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` has the operator's files; None: there are none."""
        self._folder = folder
        self._stamp: tuple[object, ...] | None = None
        self._words = parse_search_words(defaults.SYNONYMS, defaults.STOP_WORDS)

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
        """Get synonyms and stop words; the files are read again if they have changed.

        Returns:
            What is applied to queries. If a file cannot be read, what was read before.
        """
        stamp = tuple(self._stamp_of(name) for name in (SYNONYMS_FILE, STOP_WORDS_FILE))
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                synonyms = self._read(SYNONYMS_FILE, defaults.SYNONYMS)
                self._words = parse_search_words(synonyms, self._read(STOP_WORDS_FILE, defaults.STOP_WORDS))
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
