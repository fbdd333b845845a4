"""``python -m partc`` is the ``partc`` command."""

from partc.cli import main

if __name__ == "__main__":
    main()
